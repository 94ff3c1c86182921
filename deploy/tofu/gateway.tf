# The same objects as deploy/kubernetes/gateway.yaml and optional/ingress.yaml, where the reasons stand.

locals {
  labels = {
    "app.kubernetes.io/name"      = "belljar"
    "app.kubernetes.io/component" = "gateway"
  }

  # JSON's strings and lists of strings are TOML's, too.
  configuration = <<-TOML
    listen = "0.0.0.0:3001"
    launcher = "kubernetes"
    allowed_origins = ${jsonencode(var.allowed_origins)}
    trusted_proxies = ${jsonencode(var.trusted_proxies)}

    [log]
    format = "json"

    [kubernetes]
    namespace = ${jsonencode(kubernetes_namespace_v1.sandboxes.metadata[0].name)}
    runtime_class = ${jsonencode(var.runtime_class)}
    agent_image = ${jsonencode(var.agent_image)}
    require_gvisor = true
    instance = "belljar"
    token_key_file = "/var/run/secrets/belljar/token-key"

    [limits]
    max_sandboxes = ${var.max_sandboxes}
    min_available_memory = 0
    max_memory_pressure = 0

    [templates.base]
    image = ${jsonencode(var.sandbox_image)}
    pool = ${var.pool}

    ${var.extra_configuration}
  TOML
}

# A new name for a new configuration, so that it is rolled out.
resource "kubernetes_config_map_v1" "gateway" {
  metadata {
    name      = "belljar-${substr(sha256(local.configuration), 0, 10)}"
    namespace = var.namespace
  }
  immutable = true
  data = {
    "belljar.toml" = local.configuration
  }

  lifecycle {
    create_before_destroy = true
  }
}

resource "kubernetes_deployment_v1" "gateway" {
  metadata {
    name      = "belljar"
    namespace = var.namespace
    labels    = local.labels
  }

  spec {
    replicas = var.replicas

    selector {
      match_labels = local.labels
    }
    strategy {
      type = "RollingUpdate"
      rolling_update {
        max_unavailable = 0
        max_surge       = 1
      }
    }

    template {
      metadata {
        labels = local.labels
      }
      spec {
        service_account_name             = kubernetes_service_account_v1.gateway.metadata[0].name
        automount_service_account_token  = true
        enable_service_links             = false
        termination_grace_period_seconds = 40

        security_context {
          run_as_non_root = true
          run_as_user     = 65532
          run_as_group    = 65532
          fs_group        = 65532
          seccomp_profile {
            type = "RuntimeDefault"
          }
        }

        topology_spread_constraint {
          max_skew           = 1
          topology_key       = "kubernetes.io/hostname"
          when_unsatisfiable = "ScheduleAnyway"
          label_selector {
            match_labels = local.labels
          }
        }

        container {
          name              = "gateway"
          image             = var.gateway_image
          image_pull_policy = "IfNotPresent"
          args              = ["belljar", "serve", "--config", "/etc/belljar/belljar.toml"]

          port {
            name           = "http"
            container_port = 3001
          }
          env {
            name  = "BELLJAR_RUN_DIR"
            value = "/run/belljar"
          }

          startup_probe {
            http_get {
              path = "/status"
              port = "http"
            }
            timeout_seconds   = 5
            period_seconds    = 2
            failure_threshold = 60
          }
          readiness_probe {
            http_get {
              path = "/health"
              port = "http"
            }
            timeout_seconds   = 5
            period_seconds    = 5
            failure_threshold = 24
          }
          liveness_probe {
            http_get {
              path = "/status"
              port = "http"
            }
            timeout_seconds   = 5
            period_seconds    = 10
            failure_threshold = 6
          }

          resources {
            requests = { cpu = "100m", memory = "128Mi" }
            limits   = { memory = "512Mi" }
          }
          security_context {
            allow_privilege_escalation = false
            read_only_root_filesystem  = true
            capabilities {
              drop = ["ALL"]
            }
          }

          volume_mount {
            name       = "config"
            mount_path = "/etc/belljar"
            read_only  = true
          }
          volume_mount {
            name       = "token-key"
            mount_path = "/var/run/secrets/belljar"
            read_only  = true
          }
          volume_mount {
            name       = "run"
            mount_path = "/run/belljar"
          }
          volume_mount {
            name       = "tmp"
            mount_path = "/tmp"
          }
        }

        volume {
          name = "config"
          config_map {
            name = kubernetes_config_map_v1.gateway.metadata[0].name
          }
        }
        volume {
          name = "token-key"
          secret {
            secret_name  = var.token_key_secret
            default_mode = "0440"
          }
        }
        volume {
          name = "run"
          empty_dir {
            medium     = "Memory"
            size_limit = "16Mi"
          }
        }
        volume {
          name = "tmp"
          empty_dir {
            size_limit = "64Mi"
          }
        }
      }
    }
  }

  depends_on = [kubernetes_role_binding_v1.gateway]
}

resource "kubernetes_service_v1" "gateway" {
  metadata {
    name      = "belljar"
    namespace = var.namespace
    labels    = local.labels
  }
  spec {
    selector = local.labels
    port {
      name        = "http"
      port        = 80
      target_port = "http"
    }
  }
}

resource "kubernetes_pod_disruption_budget_v1" "gateway" {
  metadata {
    name      = "belljar"
    namespace = var.namespace
  }
  spec {
    max_unavailable = 1
    selector {
      match_labels = local.labels
    }
  }
}

resource "kubernetes_ingress_v1" "gateway" {
  count = var.host == "" ? 0 : 1

  metadata {
    name      = "belljar"
    namespace = var.namespace
    annotations = {
      "nginx.ingress.kubernetes.io/proxy-read-timeout"      = "3600"
      "nginx.ingress.kubernetes.io/proxy-send-timeout"      = "3600"
      "nginx.ingress.kubernetes.io/proxy-buffering"         = "off"
      "nginx.ingress.kubernetes.io/proxy-request-buffering" = "off"
      "nginx.ingress.kubernetes.io/proxy-body-size"         = "64m"
    }
  }
  spec {
    ingress_class_name = var.ingress_class
    tls {
      hosts       = [var.host]
      secret_name = var.tls_secret
    }
    rule {
      host = var.host
      http {
        path {
          path      = "/"
          path_type = "Prefix"
          backend {
            service {
              name = kubernetes_service_v1.gateway.metadata[0].name
              port {
                name = "http"
              }
            }
          }
        }
        path {
          path      = "/metrics"
          path_type = "Exact"
          backend {
            service {
              name = kubernetes_service_v1.nothing[0].metadata[0].name
              port {
                name = "http"
              }
            }
          }
        }
      }
    }
  }
}

# Nobody is behind this one: what the proxy sends there is a 503.
resource "kubernetes_service_v1" "nothing" {
  count = var.host == "" ? 0 : 1

  metadata {
    name      = "belljar-nothing"
    namespace = var.namespace
  }
  spec {
    port {
      name = "http"
      port = 80
    }
  }
}
