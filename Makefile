# Every target sets itself up: .venv is built once, and again only when what it is built from has changed.

.PHONY: help demo test test-long check serve bench bench-features bench-serving bench-learning bench-lists notebooks lock clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: .venv/.ready ## Simulate leads, train, backtest and score them
	.venv/bin/touchstone demo

test: .venv/.ready ## Run the tests
	.venv/bin/pytest -n 2 -m "not long"

test-long: .venv/.ready ## Run every property with 10,000 examples, and the tests that take minutes
	TOUCHSTONE_HYPOTHESIS=long .venv/bin/pytest -n 2 --dist worksteal -m "hypothesis or long"

check: .venv/.ready ## Check format, lint, types and the direction of imports, as CI and pre-commit do
	.venv/bin/ruff format --check .
	.venv/bin/ruff check .
	.venv/bin/mypy
	.venv/bin/lint-imports --no-logo

serve: .venv/.ready ## Serve scores over HTTP
	.venv/bin/touchstone serve --no-auth

bench: .venv/.ready ## Measure speed and memory
	.venv/bin/python -m benchmarks

bench-features: .venv/.ready ## Measure the features beside polars, duckdb and pandas, in minutes and gigabytes
	.venv/bin/python -m benchmarks.features

bench-serving: .venv/.ready ## Measure the service beside FastAPI doing nothing, MLflow and BentoML, with wrk, in minutes
	.venv/bin/python -m benchmarks.serving

bench-learning: .venv/.ready ## Measure what must hold of learning where the truth is known, within the hour; goes on where it was stopped
	.venv/bin/python -m benchmarks.learning

bench-lists: .venv/.ready ## Measure lists beside LightGBM's bare prediction, in minutes and gigabytes
	.venv/bin/python -m benchmarks.lists

notebooks: .venv/.ready ## Check that the notebooks equal their paired scripts, and run them
	@for notebook in notebooks/*.ipynb; do \
		.venv/bin/jupytext --quiet --to py:percent --output - "$$notebook" | \
			diff -u "$${notebook%.ipynb}.py" - || { echo "$$notebook: run .venv/bin/jupytext --sync on it"; exit 1; }; \
	done
	.venv/bin/pytest --nbmake notebooks

lock: ## Resolve requirements.lock anew; pins are kept where they can be (FLAGS=--upgrade: the newest)
	@PATH=".venv/bin:$$PATH"; command -v uv >/dev/null || { echo "uv is missing: run make check first" >&2; exit 1; }; \
	uv pip compile --quiet --generate-hashes --universal --python-version 3.11 --all-extras $(FLAGS) \
		-o requirements.lock pyproject.toml

clean: ## Remove caches and built files; models, databases and .venv stay
	rm -rf build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find . -path ./.venv -prune -o \( -name __pycache__ -o -name .ipynb_checkpoints \) -prune -exec rm -rf {} +

.venv/.ready: requirements.lock pyproject.toml scripts/setup.sh
	@PYTHON="$(PYTHON)" sh scripts/setup.sh
