/** What only a session's owner may ask the gateway: who else may look, what was recorded, files. */
import type { Lease } from './store.ts';

/** `base` is the gateway's base URL. */
export class Owner {
  readonly #url: string;

  constructor(
    base: string,
    readonly lease: Lease,
  ) {
    const url = new URL(base);
    url.pathname = `${url.pathname.replace(/\/+$/, '')}/sessions/${encodeURIComponent(lease.session)}`;
    url.search = '';
    url.hash = '';
    this.#url = url.href;
  }

  /** A way for others to watch. Throws an `Error` with a sentence for the visitor. */
  async share(): Promise<Lease> {
    const answer = await this.#ask('POST', '/shares', { mode: 'read' });
    const { token } = (await answer.json()) as Record<string, unknown>;
    if (typeof token !== 'string') throw new Error('The gateway gave no link.');
    return { session: this.lease.session, token };
  }

  /** Takes every link back. */
  async stopSharing(): Promise<void> {
    const { shares } = (await (await this.#ask('GET', '/shares')).json()) as { shares: { share: string }[] };
    await Promise.all(shares.map(({ share }) => this.#ask('DELETE', `/shares/${encodeURIComponent(share)}`)));
  }

  /** The recording, an asciicast. */
  async recording(): Promise<string> {
    return (await this.#ask('GET', '/recording')).text();
  }

  /** Puts a file into the home directory; one of that name is replaced. */
  async bring(name: string, content: Blob): Promise<void> {
    await this.#ask('PUT', `/files?path=${encodeURIComponent(name)}`, content);
  }

  /** A file's content; `path` is against the home directory. */
  async take(path: string): Promise<Blob> {
    return (await this.#ask('GET', `/files?path=${encodeURIComponent(path)}`)).blob();
  }

  async #ask(method: string, path: string, body: unknown = null): Promise<Response> {
    const headers: Record<string, string> = { authorization: `Bearer ${this.lease.token}` };
    const raw = body instanceof Blob;
    if (body !== null) headers['content-type'] = raw ? 'application/octet-stream' : 'application/json';
    const request = { method, headers, body: body === null || raw ? body : JSON.stringify(body) };
    const answer = await fetch(this.#url + path, request).catch(() => null);
    if (answer?.ok) return answer;
    const refusal = await answer?.json().catch(() => null);
    throw new Error(refusal?.message ?? 'The gateway could not be reached.');
  }
}
