"""What watches trials and tells what happened. It acts by the API, so it stands above it."""
