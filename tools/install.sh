#!/bin/sh
# Install into .venv: `sh tools/install.sh -r requirements.lock`. uv, which pip fetches, takes a
# fraction of pip's time. Where uv cannot be had, or cannot reach what pip can, pip does it.
python=.venv/bin/python
pip="$python -m pip --disable-pip-version-check"
setting() { $pip config get "global.$1" 2>/dev/null | paste -sd, -; }

if $pip install --quiet "$(grep '^uv==' requirements.lock)" 2>/dev/null; then
  # uv does not read pip's settings.
  UV_FIND_LINKS=${UV_FIND_LINKS:-$(setting find-links)}
  UV_DEFAULT_INDEX=${UV_DEFAULT_INDEX:-$(setting index-url)}
  SSL_CERT_FILE=${SSL_CERT_FILE:-$(setting cert)}
  for name in UV_FIND_LINKS UV_DEFAULT_INDEX SSL_CERT_FILE; do
    eval "[ -n \"\$$name\" ] && export $name || unset $name"
  done
  .venv/bin/uv pip install --quiet --python "$python" "$@" && exit
  echo "uv could not install: pip tries" >&2
fi
exec $pip install --quiet "$@"
