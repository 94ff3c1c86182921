/** Largest binary frame we send. The gateway takes 64 KiB; half of it leaves room for other frames between. */
export const FRAME_BYTES = 32 * 1024;

/**
 * Input bytes that wait for the socket, in order. A push is taken whole or refused whole: half a paste is worse
 * than none.
 */
export class InputQueue {
  #chunks: Uint8Array[] = [];
  #size = 0;

  get size(): number {
    return this.#size;
  }

  /** False if more than `limit` bytes would then wait. */
  push(bytes: Uint8Array, limit: number): boolean {
    if (this.#size + bytes.length > limit) return false;
    if (bytes.length > 0) this.#chunks.push(bytes);
    this.#size += bytes.length;
    return true;
  }

  /** The next frame, at most `FRAME_BYTES` long. Small pushes that piled up share one. */
  take(): Uint8Array<ArrayBuffer> {
    const frame = new Uint8Array(Math.min(this.#size, FRAME_BYTES));
    let filled = 0;
    let used = 0;
    while (filled < frame.length) {
      const chunk = this.#chunks[used] as Uint8Array;
      const part = chunk.subarray(0, frame.length - filled);
      frame.set(part, filled);
      filled += part.length;
      if (part.length < chunk.length) this.#chunks[used] = chunk.subarray(part.length);
      else used += 1;
    }
    this.#chunks.splice(0, used);
    this.#size -= filled;
    return frame;
  }

  clear(): void {
    this.#chunks = [];
    this.#size = 0;
  }
}
