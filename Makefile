# `make` prints the targets. The work is done by scripts in compose/ and by cargo: use them directly for anything finer.
.DEFAULT_GOAL := help
.PHONY: help demo test lint bench up down

help: ## print the targets
	@sed -n 's/^\([a-z]*\): ## /\1\t/p' $(MAKEFILE_LIST) | expand -t 8

# The development profile: a fresh machine has it built soonest, and `make test` uses the same build.
demo: ## run the examples on the embedded default, in one process: needs Rust and Python 3
	cargo run --locked -p gantry -- demo

test: ## run every test against real servers; installs them from Debian if they are missing
	@compose/test

lint: ## check formatting, clippy, documentation and the scripts
	@compose/lint

bench: ## measure throughput and latency of the embedded default
	@compose/bench

up: ## start the full system on this machine, without containers
	@compose/local up

down: ## stop it
	@compose/local down
