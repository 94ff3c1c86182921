/** The link by which a terminal is shared. Its token stands in the fragment, which no browser sends anywhere. */
import type { Lease } from './store.ts';

/** The page at `page`, showing what `share` opens. */
export function shareLink(page: string, share: Lease): string {
  const url = new URL(page);
  url.search = '';
  url.hash = new URLSearchParams({ share: share.token, session: share.session }).toString();
  return url.href;
}

/** What the fragment of a page's address opens. */
export function readShareLink(hash: string): Lease | null {
  const fields = new URLSearchParams(hash.replace(/^#/, ''));
  const [token, session] = [fields.get('share'), fields.get('session')];
  return token && session ? { session, token } : null;
}
