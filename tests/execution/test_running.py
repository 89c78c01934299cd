"""Work that is lost on the way is done again; a worker's own error is told."""

from concurrent.futures import Executor, Future

import pytest

from qtool.core.errors import WorkerError
from qtool.execution import run


class Losing(Executor):
    """Fails the first piece of work once, from code in a file of that name."""

    def __init__(self, file):
        self.code, self.submitted = compile("one, two, three = b'result'", file, "exec"), 0

    def submit(self, function, *arguments):
        future: Future = Future()
        self.submitted += 1
        try:
            if self.submitted == 1:
                exec(self.code)
            future.set_result(function(*arguments))
        except ValueError as error:
            future.set_exception(error)
        return future


def double(work, _):
    return 2 * work


def test_a_result_that_dask_lost_is_computed_again():
    executor = Losing("site-packages/distributed/cfexecutor.py")
    assert sorted(run(executor, double, iter([1, 2, 3]), lambda *_: None)) == [(1, 2), (2, 4), (3, 6)]
    assert executor.submitted == 4


def test_the_same_error_of_the_work_itself_is_told():
    with pytest.raises(WorkerError, match="too many values to unpack"):
        list(run(Losing("qtool/work.py"), double, iter([1, 2, 3]), lambda *_: None))
