# The same objects as deploy/kubernetes/{namespaces,runtime-class,access,sandboxes}.yaml, where the reasons stand.

resource "kubernetes_namespace_v1" "sandboxes" {
  metadata {
    name = var.sandbox_namespace
    labels = {
      "pod-security.kubernetes.io/enforce" = "restricted"
      "pod-security.kubernetes.io/warn"    = "restricted"
    }
  }
}

# Without the overhead of runtime-class.yaml, which the provider does not know.
resource "kubernetes_runtime_class_v1" "gvisor" {
  count = var.runtime_handler == "" ? 0 : 1

  metadata {
    name = var.runtime_class
  }
  handler = var.runtime_handler
}

resource "kubernetes_service_account_v1" "gateway" {
  metadata {
    name      = "belljar"
    namespace = var.namespace
  }
  automount_service_account_token = false
}

resource "kubernetes_role_v1" "gateway" {
  metadata {
    name      = "belljar"
    namespace = kubernetes_namespace_v1.sandboxes.metadata[0].name
  }
  rule {
    api_groups = [""]
    resources  = ["pods"]
    verbs      = ["get", "list", "watch", "create", "patch", "delete"]
  }
  rule {
    api_groups = [""]
    resources  = ["pods/attach", "pods/exec"]
    verbs      = ["get", "create"]
  }
  rule {
    api_groups = [""]
    resources  = ["events"]
    verbs      = ["list"]
  }
  rule {
    api_groups = ["coordination.k8s.io"]
    resources  = ["leases"]
    verbs      = ["get", "create", "patch"]
  }
}

resource "kubernetes_role_binding_v1" "gateway" {
  metadata {
    name      = "belljar"
    namespace = kubernetes_namespace_v1.sandboxes.metadata[0].name
  }
  role_ref {
    api_group = "rbac.authorization.k8s.io"
    kind      = "Role"
    name      = kubernetes_role_v1.gateway.metadata[0].name
  }
  subject {
    kind      = "ServiceAccount"
    name      = kubernetes_service_account_v1.gateway.metadata[0].name
    namespace = var.namespace
  }
}

resource "kubernetes_network_policy_v1" "no_network" {
  metadata {
    name      = "no-network"
    namespace = kubernetes_namespace_v1.sandboxes.metadata[0].name
  }
  spec {
    pod_selector {}
    policy_types = ["Ingress", "Egress"]
  }
}

resource "kubernetes_resource_quota_v1" "sandboxes" {
  metadata {
    name      = "sandboxes"
    namespace = kubernetes_namespace_v1.sandboxes.metadata[0].name
  }
  spec {
    # A fifth more than the gateways' own limits; processor and memory are those of the template `base`, with gVisor's own.
    hard = {
      pods                   = ceil(var.max_sandboxes * var.replicas * 1.2)
      "requests.cpu"         = ceil(var.max_sandboxes * var.replicas * 0.64)
      "requests.memory"      = "${ceil(var.max_sandboxes * var.replicas * 1.2 * 200)}Mi"
      "limits.cpu"           = ceil(var.max_sandboxes * var.replicas * 0.64)
      "limits.memory"        = "${ceil(var.max_sandboxes * var.replicas * 1.2 * 200)}Mi"
      persistentvolumeclaims = 0
      services               = 0
      secrets                = 4
      configmaps             = 4
    }
  }
}

resource "kubernetes_limit_range_v1" "sandboxes" {
  metadata {
    name      = "sandboxes"
    namespace = kubernetes_namespace_v1.sandboxes.metadata[0].name
  }
  spec {
    limit {
      type            = "Container"
      default_request = { cpu = "50m", memory = "128Mi" }
      default         = { cpu = "500m", memory = "128Mi" }
      max             = { cpu = "4", memory = "2Gi" }
    }
    limit {
      type = "Pod"
      max  = { cpu = "4", memory = "2Gi" }
    }
  }
}
