"""The module, as far as it can be told without OpenTofu: it parses, what it refers to is declared, and what seals
gateways and sandboxes is what deploy/kubernetes has, whose objects a real API server has seen (validate.sh there).

    python test_module.py    with what requirements.txt names
"""

import pathlib
import re
import unittest

import hcl2
import yaml

HERE = pathlib.Path(__file__).parent
KUSTOMIZE = HERE.parent / "kubernetes"


def plain(value):
    """Without what python-hcl2 adds: quotes of strings and keys, marks of blocks, expressions' ${}."""
    if isinstance(value, dict):
        return {plain(key): plain(each) for key, each in value.items() if not str(key).startswith("__")}
    if isinstance(value, list):
        return [plain(each) for each in value]
    if isinstance(value, str):
        return value[1:-1] if len(value) > 1 and value[0] == value[-1] == '"' else value
    return value


def module():
    """Every block of every file: {(kind, name…): content}."""
    blocks = {}
    for file in sorted(HERE.glob("*.tf")):
        with file.open() as text:
            for kind, entries in plain(hcl2.load(text)).items():
                for entry in entries:
                    names = [kind]
                    while isinstance(entry, dict) and len(entry) == 1 and kind in ("resource", "variable", "output") and len(names) < (3 if kind == "resource" else 2):
                        (name, entry), = entry.items()
                        names.append(name)
                    blocks[tuple(names) if kind != "locals" else (kind, file.name)] = entry
    return blocks


def objects():
    """Every object of deploy/kubernetes: {(kind, name): object}."""
    found = {}
    for file in KUSTOMIZE.glob("*.yaml"):
        for thing in yaml.safe_load_all(file.read_text()):
            if thing and "metadata" in thing:
                found[thing["kind"], thing["metadata"]["name"]] = thing
    return found


def one(value):
    """The only block of its kind."""
    assert isinstance(value, list) and len(value) == 1, value
    return value[0]


class Module(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.blocks = module()
        cls.objects = objects()
        cls.text = "\n".join(re.sub(r"(?m)^\s*#.*$", "", file.read_text()) for file in HERE.glob("*.tf"))

    def resource(self, kind):
        found = [content for names, content in self.blocks.items() if names[:2] == ("resource", f"kubernetes_{kind}_v1")]
        return found[0]

    def container(self):
        spec = one(one(one(self.resource("deployment")["spec"])["template"])["spec"])
        return spec, one(spec["container"])

    def kustomize_container(self):
        spec = self.objects["Deployment", "belljar"]["spec"]["template"]["spec"]
        return spec, spec["containers"][0]

    def test_every_variable_is_declared_and_used(self):
        declared = {names[1] for names in self.blocks if names[0] == "variable"}
        used = set(re.findall(r"\bvar\.([a-z_]+)", self.text))
        self.assertEqual(declared, used)
        for names, content in self.blocks.items():
            if names[0] == "variable":
                self.assertTrue(content.get("description") and content.get("type"), names)

    def test_every_reference_has_a_resource(self):
        declared = {names[1:] for names in self.blocks if names[0] == "resource"}
        used = set(re.findall(r"\b(kubernetes_[a-z_]+_v1)\.([a-z_]+)", self.text))
        self.assertLessEqual(used, declared)
        self.assertEqual({name for name in re.findall(r"\blocal\.([a-z_]+)", self.text)}, {"labels", "configuration"})

    def test_the_gateway_may_do_the_same(self):
        mine = [(rule["api_groups"], rule["resources"], rule["verbs"]) for rule in self.resource("role")["rule"]]
        theirs = [(rule["apiGroups"], rule["resources"], rule["verbs"]) for rule in self.objects["Role", "belljar"]["rules"]]
        self.assertEqual(mine, theirs)

    def test_the_gateway_is_sealed_alike(self):
        spec, container = self.container()
        other_spec, other = self.kustomize_container()
        pod, other_pod = one(spec["security_context"]), other_spec["securityContext"]
        self.assertEqual(
            [pod["run_as_non_root"], pod["run_as_user"], pod["run_as_group"], pod["fs_group"], one(pod["seccomp_profile"])["type"]],
            [other_pod["runAsNonRoot"], other_pod["runAsUser"], other_pod["runAsGroup"], other_pod["fsGroup"], other_pod["seccompProfile"]["type"]],
        )
        seal, other_seal = one(container["security_context"]), other["securityContext"]
        self.assertEqual(
            [seal["allow_privilege_escalation"], seal["read_only_root_filesystem"], one(seal["capabilities"])["drop"]],
            [other_seal["allowPrivilegeEscalation"], other_seal["readOnlyRootFilesystem"], other_seal["capabilities"]["drop"]],
        )
        self.assertEqual(container["args"], other["args"])
        self.assertEqual(
            [(mount["name"], mount["mount_path"]) for mount in container["volume_mount"]],
            [(mount["name"], mount["mountPath"]) for mount in other["volumeMounts"]],
        )

    def test_probes_are_the_same(self):
        _, container = self.container()
        _, other = self.kustomize_container()
        for name in ("startup", "readiness", "liveness"):
            probe, theirs = one(container[f"{name}_probe"]), other[f"{name}Probe"]
            self.assertEqual(
                [one(probe["http_get"])["path"], probe["timeout_seconds"], probe["period_seconds"], probe["failure_threshold"]],
                [theirs["httpGet"]["path"], theirs["timeoutSeconds"], theirs["periodSeconds"], theirs["failureThreshold"]],
                name,
            )

    def test_sandboxes_have_the_same_limits(self):
        mine = [{name: value for name, value in limit.items()} for limit in one(self.resource("limit_range")["spec"])["limit"]]
        theirs = self.objects["LimitRange", "sandboxes"]["spec"]["limits"]
        for limit, other in zip(mine, theirs, strict=True):
            self.assertEqual(limit["type"], other["type"])
            self.assertEqual(limit.get("default_request"), other.get("defaultRequest"))
            self.assertEqual(limit.get("default"), other.get("default"))
            self.assertEqual(limit["max"], other["max"])
        quota = one(self.resource("resource_quota")["spec"])["hard"]
        self.assertEqual(set(quota), set(self.objects["ResourceQuota", "sandboxes"]["spec"]["hard"]))
        policy = one(self.resource("network_policy")["spec"])
        self.assertEqual(policy["policy_types"], self.objects["NetworkPolicy", "no-network"]["spec"]["policyTypes"])
        self.assertNotIn("ingress", policy)
        self.assertNotIn("egress", policy)
        labels = one(self.resource("namespace")["metadata"])["labels"]
        self.assertEqual(labels, self.objects["Namespace", "belljar-sandboxes"]["metadata"]["labels"])


if __name__ == "__main__":
    unittest.main()
