from numpy import ndarray

WIDEST: int

def count(x: ndarray, scratch: ndarray, counts: ndarray, widest: int) -> tuple[float, float] | None: ...
