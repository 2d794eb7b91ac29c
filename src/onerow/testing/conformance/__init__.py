"""What every adapter has to pass: one suite of checks per port, and nothing of any engine in them.

A check is a function of one argument, a harness, with plain asserts; ``CHECKS`` of ``lockstore``, ``partstore`` and
``warehouse`` are all checks of a port. A harness joins a suite to a backend: a new backend is one more harness and
no new check. Any test runner can call them::

    @pytest.mark.parametrize("check", warehouse.CHECKS, ids=lambda check: check.__name__)
    def test_my_warehouse(check, tmp_path):
        with closing(MyHarness(tmp_path)) as harness:
            check(harness)
"""
