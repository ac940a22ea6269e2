# Every target builds .venv first if need be (tools/bootstrap); nothing else has to be set up.
# PYTHON=... chooses the interpreter; ARGS=... is handed to the command.

.DEFAULT_GOAL := help
.PHONY: help demo ui test check bench faults lock clean bootstrap

# A science stack or another environment that is set up in this shell must not leak in, and bytecode is wanted:
# without it each start of a Rubin command line costs seconds.
unexport PYTHONPATH PYTHONHOME PYTHONDONTWRITEBYTECODE VIRTUAL_ENV
export PYTHON ?=

help:
	@echo 'make demo    a campaign on real survey records, from file to output collection'
	@echo 'make ui      the web UI and the daemon on what the demo left'
	@echo 'make test    all tests'
	@echo 'make check   lint, types, dead code, dependencies, layers, house rules'
	@echo 'make bench   what this costs: seconds, CPU, memory'
	@echo 'make faults  deaths and outages by the thousand: SEED=1 N=1000, or REPLAY=FILE'
	@echo 'make lock    compile requirements/*.txt (ARGS=--upgrade moves the pins)'
	@echo 'make clean   remove all that was built here, with .venv and the demo'
	@echo 'PYTHON=...   the Python >= 3.12 to use;  ARGS=... options of the command'

demo: bootstrap
	.venv/bin/cm demo $(ARGS)

ui: bootstrap
	.venv/bin/cm ui $(ARGS)

test: bootstrap
	.venv/bin/python -m pytest -q --durations=10 --numprocesses=2 --dist=loadscope --no-loadscope-reorder $(ARGS)

check: bootstrap
	tools/check $(ARGS)

bench: bootstrap
	.venv/bin/python -m cm_dagster_tests.bench $(ARGS)

faults: bootstrap
	.venv/bin/python -m cm_dagster_tests.faults --seed $(or $(SEED),1) --number $(or $(N),1000) $(if $(REPLAY),--replay $(REPLAY)) $(ARGS)

lock:
	tools/lock $(ARGS)

clean:
	rm -rf .venv .cache .demo dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

bootstrap:
	@tools/bootstrap
