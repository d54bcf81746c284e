"""The part of kustomize that deploy/kubernetes uses: resources, components, namespace, images, configMapGenerator with
literals, JSON patches and deletion. What it does not know it refuses."""
import copy

import yaml

KNOWN = {"apiVersion", "kind", "namespace", "resources", "components", "images", "configMapGenerator", "generatorOptions",
         "patches"}
CLUSTER_WIDE = {"Namespace"}


class KustomizeError(Exception):
    pass


def _documents(path):
    return [d for d in yaml.safe_load_all(path.read_text()) if d is not None]


def _apply(document, operations):
    for operation in operations:
        parts = [p.replace("~1", "/").replace("~0", "~") for p in operation["path"].split("/")[1:]]
        parent = document
        for part in parts[:-1]:
            parent = parent[int(part)] if isinstance(parent, list) else parent[part]
        key = parts[-1]
        if isinstance(parent, list):
            key = len(parent) if key == "-" else int(key)
        if operation["op"] == "add":
            value = copy.deepcopy(operation["value"])
            if isinstance(parent, list):
                parent.insert(key, value)
            else:
                parent[key] = value
        elif operation["op"] == "replace":
            parent[key]  # must be there: a KeyError otherwise
            parent[key] = copy.deepcopy(operation["value"])
        elif operation["op"] == "remove":
            del parent[key]
        else:
            raise KustomizeError(f"operation {operation['op']}")


def _patch(documents, patch, folder):
    content = yaml.safe_load(patch["patch"] if "patch" in patch else (folder / patch["path"]).read_text())
    if isinstance(content, dict):
        if content.get("$patch") != "delete":
            raise KustomizeError("only JSON patches and deletion are known")
        kept = [d for d in documents if (d["kind"], d["metadata"]["name"]) !=
                (content["kind"], content["metadata"]["name"])]
        if len(kept) != len(documents) - 1:
            raise KustomizeError(f"nothing to delete: {content}")
        return kept
    target = patch["target"]
    chosen = [d for d in documents if d["kind"] == target["kind"] and d["metadata"]["name"] == target["name"]]
    if len(chosen) != 1:
        raise KustomizeError(f"{len(chosen)} targets of {target}")
    _apply(chosen[0], content)
    return documents


def _generate(documents, generator):
    data = dict(line.split("=", 1) for line in generator["literals"])
    if generator.get("behavior") == "merge":
        old = [d for d in documents if d["kind"] == "ConfigMap" and d["metadata"]["name"] == generator["name"]]
        old[0]["data"].update(data)
    else:
        documents.append({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": generator["name"]}, "data": data})


def _pod_specs(document):
    spec = document.get("spec") or {}
    return [spec["template"]["spec"]] if isinstance(spec.get("template"), dict) else []


def build(folder):
    """The documents of a kustomization's folder, as `kubectl kustomize` prints them, in any order."""
    files = [folder / "kustomization.yaml"]
    kustomization = _documents(files[0])[0]
    unknown = set(kustomization) - KNOWN
    if unknown:
        raise KustomizeError(f"{files[0]}: {unknown}")
    if kustomization.get("configMapGenerator") and not kustomization["generatorOptions"]["disableNameSuffixHash"]:
        raise KustomizeError("names with a hash")
    documents = []
    for resource in kustomization.get("resources", []):
        path = folder / resource
        documents += build(path) if path.is_dir() else _documents(path)
    for generator in kustomization.get("configMapGenerator", []):
        _generate(documents, generator)
    for component in kustomization.get("components", []):
        documents += build(folder / component)
    for patch in kustomization.get("patches", []):
        documents = _patch(documents, patch, folder)
    for document in documents:
        if "namespace" in kustomization and document["kind"] not in CLUSTER_WIDE:
            document["metadata"]["namespace"] = kustomization["namespace"]
        for image in kustomization.get("images", []):
            for pod in _pod_specs(document):
                for container in pod["containers"]:
                    name, tag = container["image"].rsplit(":", 1)
                    if name == image["name"]:
                        container["image"] = f"{image.get('newName', name)}:{image.get('newTag', tag)}"
    return documents
