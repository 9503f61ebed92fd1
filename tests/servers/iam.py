"""AWS's policies: evaluated here for those in docs/, and enforced by a server that has users.

`allows` implements what these policies use: `Allow` and `Deny`, wildcards, and the conditions named in `_HOLDS`.
SeaweedFS enforces the policies of users; its bucket policies do not support the conditions on writes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3

from registry.devstack.s3_server import S3Server
from tests.support.sent_requests import Sent

_ACTIONS = {
    "PutObject": "s3:PutObject", "CreateMultipartUpload": "s3:PutObject", "UploadPart": "s3:PutObject",
    "CompleteMultipartUpload": "s3:PutObject", "AbortMultipartUpload": "s3:AbortMultipartUpload",
    "GetObject": "s3:GetObject", "HeadObject": "s3:GetObject", "DeleteObject": "s3:DeleteObject",
    "ListObjectsV2": "s3:ListBucket", "ListMultipartUploads": "s3:ListBucketMultipartUploads",
}  # fmt: skip
_CREATES = ("PutObject", "CompleteMultipartUpload")
_UNKNOWN_TO_THE_SERVER = {"s3:ListBucketMultipartUploads": "s3:List*"}
_OF_THE_BUCKET = ("s3:ListBucket", "s3:ListBucketMultipartUploads")

Policy = Mapping[str, Any]


@dataclass(frozen=True)
class Call:
    """What a policy sees of a request."""

    action: str
    resource: str
    context: Mapping[str, str]

    @classmethod
    def of(cls, sent: Sent, bucket: str, principal: str = "arn:aws:iam::123456789012:role/somebody") -> Call:
        """The call that a request is for AWS."""
        action = _ACTIONS[sent.operation]
        context = {"aws:PrincipalArn": principal, "aws:SecureTransport": "true"}
        for header in ("if-match", "if-none-match"):
            if header in sent.headers and action == "s3:PutObject":
                context[f"s3:{header}"] = sent.headers[header]
        if action == "s3:PutObject":
            context["s3:ObjectCreationOperation"] = str(sent.operation in _CREATES).lower()
        if action in _OF_THE_BUCKET:
            return cls(action, f"arn:aws:s3:::{bucket}", {**context, "s3:prefix": sent.query["prefix"][0]})
        return cls(action, f"arn:aws:s3:::{bucket}/{sent.key}", context)


def allows(identity: Policy, bucket: Policy, call: Call) -> bool:
    """Whether a user with this policy may do this on a bucket with that one."""
    statements = [*identity["Statement"], *bucket["Statement"]]
    effects = {statement["Effect"] for statement in statements if _applies(statement, call)}
    return effects == {"Allow"}


def read_policy(path: Path, names: Mapping[str, str]) -> Policy:
    """A policy from a file, with its placeholders filled in."""
    text = path.read_text()
    for placeholder, name in names.items():
        text = text.replace(placeholder, name)
    policy: Policy = json.loads(text)
    return policy


def _applies(statement: Mapping[str, Any], call: Call) -> bool:
    return (
        _matches(_list(statement["Action"]), call.action)
        and _matches(_list(statement["Resource"]), call.resource)
        and all(
            _HOLDS[operator](call.context.get(key), _list(values))
            for operator, condition in statement.get("Condition", {}).items()
            for key, values in condition.items()
        )
    )


def _matches(patterns: Sequence[str], text: str | None) -> bool:
    regexes = (re.escape(pattern).replace(r"\*", ".*").replace(r"\?", ".") for pattern in patterns)
    return text is not None and any(re.fullmatch(regex, text, re.DOTALL) for regex in regexes)


_HOLDS = {
    "StringLike": lambda value, patterns: _matches(patterns, value),
    "ArnNotLike": lambda value, patterns: not _matches(patterns, value),
    "Bool": lambda value, wanted: value in wanted,
    "Null": lambda value, wanted: str(value is None).lower() in wanted,
}


def _list(value: str | Sequence[str]) -> Sequence[str]:
    return [value] if isinstance(value, str) else value


class UserServer(S3Server):
    """An S3 server on which users can be made."""

    def _command(self) -> list[str]:
        return [*super()._command(), "-s3.iam.readOnly=false"]

    def add_user(self, name: str, policy: Policy) -> dict[str, str]:
        """Make a user with this policy; its environment."""
        keys = {"aws_access_key_id": self.access_key, "aws_secret_access_key": self.secret_key}
        iam = boto3.client("iam", endpoint_url=self.url, region_name="us-east-1", **keys)
        document = json.dumps(policy)
        for action, known in _UNKNOWN_TO_THE_SERVER.items():
            document = document.replace(action, known)
        iam.create_user(UserName=name)
        iam.put_user_policy(UserName=name, PolicyName=name, PolicyDocument=document)
        key = iam.create_access_key(UserName=name)["AccessKey"]
        made = {"AWS_ACCESS_KEY_ID": key["AccessKeyId"], "AWS_SECRET_ACCESS_KEY": key["SecretAccessKey"]}
        return {**self.env, **made}
