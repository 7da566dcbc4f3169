# The commands of this repository; each runs a script of dev/ with ARGS.
.DEFAULT_GOAL := help
.PHONY: help run test simulate mutants fuzz schemathesis bench prove check up down

help: ## print this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: ## run the demo: a simulated library plays a day, until Ctrl-C
	@dev/run $(ARGS)

test: ## run every test on a real PostgreSQL and a real Kafka
	@dev/test $(ARGS)

simulate: ## simulate a million histories of the ingest loop, or ARGS="histories seed"
	@dev/simulate $(ARGS)

mutants: ## apply a hundred deliberate changes to the service and list the tests that detect each; half an hour (dev/mutants-core: every mutation of the pure core, by cargo-mutants)
	@dev/mutants $(ARGS)

fuzz: ## fuzz the decoder for ten minutes or ARGS=minutes
	@dev/fuzz $(ARGS)

schemathesis: ## generate requests from the OpenAPI description, or ARGS="cases seed"
	@dev/schemathesis $(ARGS)

bench: ## run the benches
	@dev/bench $(ARGS)

prove: ## play a day with three kills of the service, then a day with an outage of each engine; then judge
	@dev/prove kills
	@dev/prove outages

check: ## check format, lints, docs, length of files, dependencies
	@dev/prepare
	@dev/check

up: ## start PostgreSQL and Kafka, print the variables to reach them
	@dev/up

down: ## stop PostgreSQL and Kafka
	@dev/down
