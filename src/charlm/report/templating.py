"""HTML from a package's folder `templates`."""

from typing import Any

import jinja2


def render(template: str, package: str = "charlm.report", **values: Any) -> str:
    """Return a page of a package's templates; values are escaped unless the template says safe."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader(package, "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.policies["json.dumps_kwargs"] = {}  # what is ranked keeps its order
    return environment.get_template(template).render(**values)
