# The commands of this repository; each is a script of dev/. ARGS go to what the script runs.
.DEFAULT_GOAL := help
.PHONY: help run test simulate mutants fuzz schemathesis bench prove check up down

help: ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: ## the demo: a made-up library plays a day, until Ctrl-C
	@dev/run $(ARGS)

test: ## every test, on a real PostgreSQL and a real Kafka
	@dev/test $(ARGS)

simulate: ## a million histories of the ingest loop, or ARGS="histories seed"
	@dev/simulate $(ARGS)

mutants: ## break the service on purpose in a hundred ways, and list which test sees each; half an hour (dev/mutants-core: the pure core in every way, by cargo-mutants)
	@dev/mutants $(ARGS)

fuzz: ## bytes of all kinds for the decoder, ten minutes or ARGS=minutes
	@dev/fuzz $(ARGS)

schemathesis: ## requests made up from the description of the interfaces, or ARGS="cases seed"
	@dev/schemathesis $(ARGS)

bench: ## the benches
	@dev/bench $(ARGS)

prove: ## a day with the service killed three times, then one with each engine away; then the judge
	@dev/prove kills
	@dev/prove outages

check: ## format, lints, docs, length of files, dependencies
	@dev/prepare
	@dev/check

up: ## start PostgreSQL and Kafka, print how to reach them
	@dev/up

down: ## stop what was started
	@dev/down
