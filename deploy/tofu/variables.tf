variable "gateway_image" {
  description = "The gateway's image, as registry.example.com/belljar:1.2.3."
  type        = string
}

variable "agent_image" {
  description = "The agent's image (docker/agent.Dockerfile), of the same release."
  type        = string
}

variable "sandbox_image" {
  description = "The image of the template `base` (docker/Dockerfile)."
  type        = string
}

variable "token_key_secret" {
  description = "A Secret in `namespace` that exists already, with the tokens' key as `token-key`. It is not made here, so that it does not stand in the state."
  type        = string
  default     = "belljar-token-key"
}

variable "namespace" {
  description = "The gateways' namespace. It exists already, because of the Secret in it."
  type        = string
  default     = "belljar"
}

variable "sandbox_namespace" {
  description = "The namespace of sandboxes, and nothing else."
  type        = string
  default     = "belljar-sandboxes"
}

variable "runtime_class" {
  description = "The RuntimeClass of sandboxes."
  type        = string
  default     = "gvisor"
}

variable "runtime_handler" {
  description = "The nodes' name of gVisor. Empty: the cluster has the RuntimeClass already, as on GKE Sandbox."
  type        = string
  default     = "runsc"
}

variable "replicas" {
  description = "Gateways."
  type        = number
  default     = 2
}

variable "max_sandboxes" {
  description = "Sandboxes at once of each gateway, those that wait in the pool apart. The quota holds for all of them."
  type        = number
  default     = 50

  validation {
    condition     = var.max_sandboxes >= 1 && var.max_sandboxes <= 100000
    error_message = "It must be from 1 to 100000."
  }
}

variable "pool" {
  description = "Sandboxes that are started ahead, of all gateways together."
  type        = number
  default     = 5
}

variable "allowed_origins" {
  description = "Other sites whose pages may open terminals."
  type        = list(string)
  default     = []
}

variable "trusted_proxies" {
  description = "Networks whose X-Forwarded-For is believed: those of the ingress controller's pods."
  type        = list(string)
  default     = ["10.0.0.0/8"]
}

variable "extra_configuration" {
  description = "More of belljar.toml: whole tables, as a template. What is set above cannot be set again."
  type        = string
  default     = ""
}

variable "host" {
  description = "The name that visitors type. Empty: no Ingress."
  type        = string
  default     = ""
}

variable "ingress_class" {
  description = "The class of the Ingress."
  type        = string
  default     = "nginx"
}

variable "tls_secret" {
  description = "The Secret in `namespace` with the certificate of `host`."
  type        = string
  default     = "belljar-tls"
}
