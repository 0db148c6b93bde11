from importlib.util import find_spec


def has(name: str) -> bool:
    return find_spec(name) is not None


def require_hosts() -> None: ...
