# belljar-agent:latest, for Kubernetes: nothing but the agent. As an init container it copies itself into the sandbox's
# own volume (`/belljar-agent install /belljar`), so that any image can be a sandbox. `make kubernetes-images` builds it.
FROM scratch
COPY belljar-agent /belljar-agent
ENTRYPOINT ["/belljar-agent"]
