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
  [ -n "$UV_FIND_LINKS" ] && export UV_FIND_LINKS || unset UV_FIND_LINKS
  [ -n "$UV_DEFAULT_INDEX" ] && export UV_DEFAULT_INDEX || unset UV_DEFAULT_INDEX
  export UV_SYSTEM_CERTS=true
  .venv/bin/uv pip install --quiet --python "$python" "$@" && exit
  echo "uv could not install: pip tries" >&2
fi
exec $pip install --quiet "$@"
