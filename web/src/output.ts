/** Where one chunk of output ends, and in which run of offsets. */
export interface Mark {
  readonly run: number;
  readonly end: number;
}

/** Acknowledge at least every so many bytes: a sixteenth of the usual 256 KiB window. */
const ACK_BYTES = 16 * 1024;

/**
 * Where this client stands in a terminal's output: what it has received, what the screen has processed, what it
 * has acknowledged. Offsets are bytes since the terminal was opened.
 *
 * The screen processes late: chunks of a run that was given up (a reset) may still report in, and are ignored.
 */
export class Output {
  #run = 0;
  #received = 0;
  #processed = 0;
  #acked = 0;

  /** The offset of the next byte to arrive: where a resume goes on. */
  get received(): number {
    return this.#received;
  }

  /** Everything before this offset is on the screen. */
  get processed(): number {
    return this.#processed;
  }

  /** The next byte is at `offset`, and it does not continue what came before. */
  restart(offset: number): void {
    this.#run += 1;
    this.#received = offset;
    this.#processed = offset;
    this.#acked = offset;
  }

  /** The same run goes on over a new socket, whose gateway takes all before `offset` for acknowledged. */
  resume(offset: number): void {
    this.#acked = Math.max(this.#acked, offset);
  }

  receive(bytes: number): Mark {
    this.#received += bytes;
    return { run: this.#run, end: this.#received };
  }

  /** The screen is done with everything up to `mark`. Returns the offset to acknowledge now, if any. */
  process(mark: Mark): number | null {
    if (mark.run !== this.#run) return null;
    this.#processed = Math.max(this.#processed, mark.end);
    const due = this.#processed - this.#acked;
    if (due <= 0 || (due < ACK_BYTES && this.#processed < this.#received)) return null;
    this.#acked = this.#processed;
    return this.#acked;
  }
}
