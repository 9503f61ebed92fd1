"""`mlflow deployments -t ulora`: a deployment is a channel of a model, and its changes are the channel's records.

MLflow finds `run_local`, `target_help` and the one client class in this module.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextlib import suppress
from functools import cached_property
from typing import Any, NoReturn

import mlflow
from mlflow.deployments import BaseDeploymentClient, PredictionsResponse

from registry.answers import Change, ChannelStatus
from registry.api import Registry
from registry.channels.record import Record
from registry.deployments.addresses import SCHEME, Address
from registry.deployments.config import ACTIONS, Promote, options_of, read_action
from registry.deployments.model_uri import version_named
from registry.deployments.predicting import ImageTable, predict_here, predict_there
from registry.deployments.refusals import RefusedByUlora, as_mlflow_errors
from registry.errors import BadInput, ChannelEmpty, Conflict, NotNow, UloraError
from registry.integrity.rebound import check_never_rebound
from registry.names import VersionName, check_channel
from registry.serving.loaders import Loaded
from registry.usecases.checks import check_followed
from registry.usecases.status import channel_status
from registry.versions.pointer import Pointer

_HELP = """\
A deployment is a channel of a model in ulora: staging or production. Its changes are the records of that channel, made
through the same gates as with the command `ulora`.

TARGET
  ulora            the model that ULORA_MODEL or ulora.toml names
  ulora:/MODEL     this model
The store, keys, policy and so on are those of `ulora`: ULORA_STORE and the other variables, or ulora.toml.

MODEL URI (-m)
  models:/NAME/7, models:/NAME@alias, models:/m-…    a version that ulora has logged in MLflow
  ulora://MODEL/VERSION                              a version in the store; MLflow is not asked

COMMANDS
  create    the first promotion of a channel that has served nothing yet
  update    -m URI promotes a version; -C action=… does anything else
  get       what the channel serves, its trial and its replicas
  list      the channels that serve something
  predict   --name CHANNEL loads the version that the channel serves, and answers in this process; a trial takes no
            part. --endpoint URL asks a replica there, with the token in ULORA_TOKEN
  delete    refused: a channel's records are kept for ever
  run-local loads the version as a replica does, with its self-test, and changes nothing
The input of predict is JSON with the column image (base64 of a file), and where it is known the column target.

-C NAME=VALUE
{actions}

EXAMPLES
  mlflow deployments create -t ulora --name staging -m models:/aads-ulora/7
  mlflow deployments update -t ulora --name production -m ulora://aads-ulora/v5.5.4-dinov3 -C reason="better on tomato"
  mlflow deployments update -t ulora --name production -m models:/aads-ulora/7 -C action=canary -C percent=10
  mlflow deployments update -t ulora --name production -C action=rollback -C reason="error rate 2%"
"""
_log = logging.getLogger("mlflow.ulora")


def target_help() -> str:
    """What `mlflow deployments help -t ulora` prints."""
    actions = "\n".join(f"  action={name:<10} {', '.join(options_of(kind))}" for name, kind in ACTIONS.items())
    return _HELP.format(actions=actions)


def run_local(name: str, model_uri: str, flavor: str | None = None, config: Mapping[str, Any] | None = None) -> None:
    """Load a version as a replica does, verified and self-tested, and say so. Changes nothing; `name` is not used.

    Raises:
        RefusedByUlora: there is no such version, it can't be loaded here, or there is a configuration.
    """
    with as_mlflow_errors():
        if config:
            raise BadInput(f"run-local takes no -C: {', '.join(map(str, config))}"[:300], hint="leave it out")
        registry = _open(Address.parse(model_uri).model if model_uri.startswith(f"{SCHEME}:") else None)
        version = _version(registry, model_uri, flavor)
        loaded = registry.load(version)
        _log.info(
            "%s is loaded, and its self-test passed; targets: %s. `ulora serve` serves what a channel has",
            version, ", ".join(loaded.targets[:20]),
        )  # fmt: skip


class ChannelDeployments(BaseDeploymentClient):  # type: ignore[misc]
    """The channels of one model as MLflow's deployments.

    All methods raise RefusedByUlora, which is an MlflowException. `endpoint` is for `predict` only.
    """

    def __init__(self, target_uri: str) -> None:
        """Opens nothing. `target_uri` is `ulora` or `ulora:/MODEL`."""
        super().__init__(target_uri)
        self._loaded: dict[Pointer, Loaded] = {}
        with as_mlflow_errors():
            self._model = _model_of(target_uri)

    @cached_property
    def _registry(self) -> Registry:
        return _open(self._model)

    def create_deployment(
        self, name: str, model_uri: str, flavor: str | None = None, config: Mapping[str, Any] | None = None,
        endpoint: str | None = None,
    ) -> dict[str, Any]:  # fmt: skip
        """Promote a version into a channel that has no record yet. Of two at once, one succeeds."""
        with as_mlflow_errors():
            _check_no_endpoint(endpoint)
            action = read_action(config, with_version=True)
            if not isinstance(action, Promote) or action.expected not in (None, 0):
                raise BadInput("create promotes only", hint="`mlflow deployments update` does other actions")
            head = self._registry.channel(name).head()
            if head is not None:
                raise Conflict(
                    f"the deployment {name} exists: generation {head.generation}, {' and '.join(head.live())}",
                    hint="`mlflow deployments update` changes it",
                )
            return self._change(name, action.model_copy(update={"expected": 0}), model_uri, flavor)

    def update_deployment(
        self, name: str, model_uri: str | None = None, flavor: str | None = None,
        config: Mapping[str, Any] | None = None, endpoint: str | None = None,
    ) -> dict[str, Any]:  # fmt: skip
        """Change what a channel serves: promote the version that `model_uri` names, or do the `action` of `config`."""
        with as_mlflow_errors():
            _check_no_endpoint(endpoint)
            check_channel(name)
            return self._change(name, read_action(config, with_version=model_uri is not None), model_uri, flavor)

    def delete_deployment(
        self, name: str, config: Mapping[str, Any] | None = None, endpoint: str | None = None
    ) -> NoReturn:
        """Refused: what a channel served stays on its record, and it serves something from its first record on."""
        raise RefusedByUlora(
            NotNow(
                f"the deployment {name[:100]!r} was not deleted: a channel's records are kept for ever, and it serves "
                "something from the first one on",
                hint="`update -C action=rollback` goes back, `update -C action=abort` ends a trial; to serve nothing, "
                "stop the replicas",
            )
        )

    def list_deployments(self, endpoint: str | None = None) -> list[dict[str, Any]]:
        """The channels that serve something, or can't be read."""
        with as_mlflow_errors():
            _check_no_endpoint(endpoint)
            found = self._registry.status().channels
            return [self._described(channel) for channel in found if channel.generation or channel.problem]

    def get_deployment(self, name: str, endpoint: str | None = None) -> dict[str, Any]:
        """What a channel serves, its trial, its newest change and its replicas."""
        with as_mlflow_errors():
            _check_no_endpoint(endpoint)
            self._head(name)
            return self._described(channel_status(self._registry.wiring, name), in_full=True)

    def predict(
        self, deployment_name: str | None = None, inputs: Any = None, endpoint: str | None = None
    ) -> PredictionsResponse:
        """Answer a table of images by the version that a channel serves, or by the replica at the URL `endpoint`."""
        with as_mlflow_errors():
            if (deployment_name is None) == (endpoint is None):
                raise BadInput("predict takes either a deployment or an endpoint", hint="--name production")
            table = ImageTable(inputs)
            if endpoint is not None:
                return PredictionsResponse(predictions=predict_there(endpoint, table))
            return PredictionsResponse(predictions=predict_here(self._load(str(deployment_name)), table))

    # --- parts -------------------------------------------------------------------------------------------------------

    def _change(self, name: str, action: Any, model_uri: str | None, flavor: str | None) -> dict[str, Any]:
        version = _version(self._registry, model_uri, flavor) if model_uri is not None else ""
        if flavor is not None and model_uri is None:
            raise BadInput("a flavor goes with a version", hint="leave -f out")
        done: Change = action.carry_out(self._registry, name, version)
        for note in done.notes:
            _log.warning(note)
        return {
            "name": name, "flavor": self._flavor(done.version), "model": done.model, "action": done.action,
            "changed": done.changed, "version": done.version, "canary": done.canary, "share": done.share,
            "previous": done.previous, "generation": done.generation, "who": done.who, "when": done.when,
            "reason": done.reason, "notes": list(done.notes),
        }  # fmt: skip

    def _described(self, channel: ChannelStatus, *, in_full: bool = False) -> dict[str, Any]:
        found = {
            "name": channel.channel, "model": self._registry.model, "version": channel.stable,
            "canary": channel.canary, "generation": channel.generation, "problem": channel.problem,
        }  # fmt: skip
        if not in_full:
            return found
        return found | {
            "flavor": self._flavor(channel.stable or ""), "share": channel.trial.share if channel.trial else "",
            "rollback_target": channel.rollback_target, "withdrawn": list(channel.withdrawn),
            "action": channel.action, "who": channel.who, "when": channel.when, "reason": channel.reason,
            "replicas": [
                f"{replica.id}: {replica.version}, generation {replica.generation}, {replica.state}"
                for replica in channel.replicas
            ],
        }  # fmt: skip

    def _flavor(self, version: str) -> str:
        """For people; empty where the store does not say: a change that was made may not look like a failure."""
        with suppress(UloraError):
            return self._registry.manifest(version).flavor if version else ""
        return ""

    def _head(self, name: str) -> tuple[Record, Pointer]:
        """The newest record of a channel, and what that serves.

        Raises:
            ChannelEmpty: there is none, or it serves nothing.
        """
        head = self._registry.channel(name).head()
        if head is None or head.stable is None:
            self._registry.store.check_holds(self._registry.model)
            raise ChannelEmpty(
                f"{name} of {self._registry.model} serves nothing yet", hint="`mlflow deployments create` begins it"
            )
        return head, head.stable

    def _load(self, name: str) -> Loaded:
        """The version that a channel serves, admitted as by a replica, and kept until the channel serves another."""
        head, pointer = self._head(name)
        if pointer not in self._loaded:
            binding = self._registry.bindings.get(VersionName.parse(pointer.version))
            check_never_rebound(binding, [head])
            check_followed(self._registry.wiring, self._registry.bindings.manifest(binding.pointer))
            self._loaded = {pointer: self._registry.load(pointer.version)}
        return self._loaded[pointer]


def _open(model: str | None) -> Registry:
    """The model, with the MLflow server that this program uses."""
    return Registry(model, tracking_uri=mlflow.get_tracking_uri() if mlflow.is_tracking_uri_set() else None)


def _model_of(target_uri: str) -> str | None:
    if ":" not in target_uri:
        return None
    address = Address.parse(target_uri)
    if address.parts:
        raise BadInput(f"the target {target_uri[:200]!r} is neither ulora nor ulora:/MODEL", hint="-t ulora")
    return address.model


def _version(registry: Registry, model_uri: str, flavor: str | None) -> str:
    version = version_named(registry, model_uri)
    if flavor is not None and flavor != registry.manifest(version).flavor:
        raise BadInput(
            f"{version} has the flavor {registry.manifest(version).flavor}, not {flavor[:100]}", hint="leave -f out"
        )
    return version


def _check_no_endpoint(endpoint: str | None) -> None:
    if endpoint is not None:
        raise BadInput(
            "a channel is at no endpoint", hint="leave --endpoint out; `predict --endpoint URL` asks a replica"
        )
