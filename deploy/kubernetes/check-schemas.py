"""Checks objects from standard input against the schemas of a version of Kubernetes, as its first argument names it."""

import sys

import kubernetes_validate
import yaml

# Kinds of others, whose schemas are not Kubernetes'.
FOREIGN = {"ServiceMonitor", "Kustomization"}

version = sys.argv[1]
count = 0
wrong = 0
for thing in yaml.safe_load_all(sys.stdin):
    if not thing or thing["kind"] in FOREIGN:
        continue
    name = f"{thing['kind']} {thing['metadata']['name']}"
    try:
        kubernetes_validate.validate(thing, version, strict=True)
        count += 1
    except (kubernetes_validate.ValidationError, kubernetes_validate.SchemaNotFoundError, kubernetes_validate.InvalidSchemaError) as error:
        wrong += 1
        where = ".".join(str(step) for step in getattr(error, "path", []))
        print(f"  FAILED      {name}, Kubernetes {version}: {where}: {getattr(error, 'message', error)}", file=sys.stderr)
print(f"  ok          Kubernetes {version}: {count} objects")
sys.exit(1 if wrong else 0)
