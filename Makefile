# Every chore is one word. `make demo` and `make test` install what they need.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# dg, which supersedes both commands, would bring 17 more packages
DAGSTER := $(BIN)/python -W 'ignore:Function `dev_command` is superseded' -W 'ignore:Function `definitions_validate_command` is superseded' -m dagster
export QUANT_HOME ?= $(CURDIR)/.quant
export QUANT_DAGSTER ?= $(QUANT_HOME)/dagster
export DAGSTER_HOME ?= $(CURDIR)
export NO_MKDOCS_2_WARNING := true

.PHONY: help install demo test unit check dev lab docs bench lock clean
help:
	@grep -hE "^[a-z]+:.*  ##" $(MAKEFILE_LIST) | sed "s|:.*  ##|	|"

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	@touch $@
MANIFEST := dbt_sql/target/manifest.json
$(MANIFEST): $(VENV)/.installed $(shell find dbt_sql -path dbt_sql/target -prune -o -name "*.sql" -print -o -name "*.yml" -print)
	$(BIN)/dbt --quiet parse --project-dir dbt_sql --profiles-dir dbt_sql
install: $(VENV)/.installed $(MANIFEST)

demo: install  ## the main job on the embedded sample data
	$(BIN)/quant pipeline run

test: install  ## every test
	$(BIN)/python -m pytest -m "not slow" -n 2 --dist loadfile
	$(BIN)/python -m pytest -m "slow $(EXCEPT)" -n 3 --dist loadfile --no-loadscope-reorder

unit: install  ## the fast ones
	$(BIN)/python -m pytest -m "not slow" -n 2 --dist loadfile

check: install  ## style, types, layers, definitions
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	@mkdir -p $(QUANT_DAGSTER)
	$(DAGSTER) definitions validate

dev: install  ## the Dagster UI and daemon on http://127.0.0.1:3000
	@mkdir -p $(QUANT_DAGSTER)
	$(DAGSTER) dev -h 127.0.0.1 -p 3000

lab: install  ## the lab on http://127.0.0.1:8501, with the Dagster UI that starts its runs
	@mkdir -p $(QUANT_DAGSTER)
	@$(DAGSTER) dev -h 127.0.0.1 -p 3000 & started=$$!; trap "kill $$started" EXIT INT TERM; $(BIN)/quant lab

docs: install  ## the documentation on http://127.0.0.1:8000
	$(BIN)/mkdocs build --quiet --strict
	$(BIN)/mkdocs serve --dev-addr 127.0.0.1:8000

bench: install  ## all benches, or one with B=<name>
	@for script in bench/$(if $(B),$(B),[a-z]*).py; do case $$script in bench/common.py|bench/portfolio_others.py|bench/event_engine_peers.py) ;; *) $(BIN)/python $$script || exit 1;; esac; done

lock: install  ## pin what is installed now
	$(BIN)/python -m pip freeze --exclude-editable > constraints.txt

clean:
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache build *.egg-info dbt_sql/target dbt_sql/logs
