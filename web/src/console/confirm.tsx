import { useLayoutEffect, useRef } from 'preact/hooks';
import { question } from './state.ts';

/** Asks again before something is gone. */
export function Confirm() {
  const dialog = useRef<HTMLDialogElement>(null);
  const asked = question.value;
  // Before the next key is heard, which may be the Escape of somebody who thinks better of it.
  useLayoutEffect(() => {
    if (asked !== null) dialog.current?.showModal();
  }, [asked]);
  if (asked === null) return null;
  const close = () => {
    question.value = null;
  };
  return (
    <dialog ref={dialog} aria-labelledby="question" onClose={close}>
      <h2 id="question">{asked.title}</h2>
      <p>{asked.detail}</p>
      <div class="row">
        <button type="button" onClick={close}>
          Cancel
        </button>
        <button
          class="danger"
          type="button"
          onClick={() => {
            close();
            void asked.run();
          }}
        >
          {asked.action}
        </button>
      </div>
    </dialog>
  );
}
