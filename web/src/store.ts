/** What a page needs to find its shell again after a reload. */
export interface Lease {
  session: string;
  token: string;
}

export interface LeaseStore {
  load(): Lease | null;
  save(lease: Lease): void;
  clear(): void;
}

/**
 * A lease in `sessionStorage`: it lives as long as the tab, and no other tab sees it. Where storage is denied
 * (private modes, sandboxed frames) the shell is merely not found again after a reload.
 */
export function tabStore(key: string): LeaseStore {
  const guarded = <T>(action: () => T): T | null => {
    try {
      return action();
    } catch {
      return null;
    }
  };
  return {
    load: () => guarded(() => readLease(sessionStorage.getItem(key))),
    save: (lease) => void guarded(() => sessionStorage.setItem(key, JSON.stringify(lease))),
    clear: () => void guarded(() => sessionStorage.removeItem(key)),
  };
}

/** A share: it is in the page's address, and never changes. */
export function shareStore(share: Lease): LeaseStore {
  return { load: () => share, save: () => {}, clear: () => {} };
}

function readLease(text: string | null): Lease | null {
  const value: unknown = text === null ? null : JSON.parse(text);
  if (typeof value !== 'object' || value === null) return null;
  const { session, token } = value as Record<string, unknown>;
  return typeof session === 'string' && typeof token === 'string' ? { session, token } : null;
}
