output "service" {
  description = "Where a proxy in the cluster finds the gateways."
  value       = "http://${kubernetes_service_v1.gateway.metadata[0].name}.${var.namespace}.svc"
}

output "sandbox_namespace" {
  description = "The namespace of sandboxes."
  value       = kubernetes_namespace_v1.sandboxes.metadata[0].name
}
