/** A timeout that is set again instead of set twice. */
export class Timer {
  #id: ReturnType<typeof setTimeout> | null = null;

  get pending(): boolean {
    return this.#id !== null;
  }

  set(ms: number, action: () => void): void {
    this.clear();
    this.#id = setTimeout(() => {
      this.#id = null;
      action();
    }, ms);
  }

  clear(): void {
    if (this.#id !== null) clearTimeout(this.#id);
    this.#id = null;
  }
}
