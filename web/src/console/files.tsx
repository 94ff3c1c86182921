import { useSignal } from '@preact/signals';
import { useEffect } from 'preact/hooks';
import type { Entry } from './api.ts';
import { join, parent, size } from './format.ts';
import { api, question, sentence } from './state.ts';

/** How long a browser may take to begin with a download. */
const SAVE_MS = 60_000;

/** Browses a sandbox's files. */
export function Files({ id, home }: { id: string; home: string }) {
  const path = useSignal(home);
  const entries = useSignal<Entry[] | null>(null);
  const more = useSignal(false);
  const failed = useSignal('');
  const told = useSignal('');

  const list = async (directory: string) => {
    try {
      const found = await api.value?.files(id, directory);
      if (found === undefined) return;
      path.value = directory;
      entries.value = found.entries.sort(
        (a, b) => Number(b.isDir) - Number(a.isDir) || a.name.localeCompare(b.name),
      );
      more.value = found.more;
      failed.value = '';
    } catch (error) {
      failed.value = sentence(error);
    }
  };
  useEffect(() => {
    void list(home);
  }, [id, home]);

  /** Changes something, says so, and shows the directory as it is then. */
  const change = async (done: string, action: () => Promise<void>) => {
    told.value = '';
    try {
      await action();
      told.value = done;
    } catch (error) {
      failed.value = sentence(error);
      return;
    }
    await list(path.value);
  };
  const upload = (files: FileList | null) =>
    change(`${files?.length === 1 ? files[0]?.name : `${files?.length} files`} came up.`, async () => {
      for (const file of files ?? []) await api.value?.upload(id, join(path.value, file.name), file);
    });
  const download = async (entry: Entry) => {
    try {
      const content = await api.value?.download(id, entry.path);
      if (content !== undefined) save(entry.name, content);
    } catch (error) {
      failed.value = sentence(error);
    }
  };
  const askToRemove = (entry: Entry) => {
    question.value = {
      title: `Remove ${entry.name}?`,
      detail: entry.isDir ? 'With everything that is in it.' : 'It cannot be had back.',
      action: 'Remove it',
      run: () => change(`${entry.name} is gone.`, async () => api.value?.remove(id, entry.path)),
    };
  };

  const above = parent(path.value);
  return (
    <section class="files" aria-labelledby="files-title">
      <h3 id="files-title">Files</h3>
      <div class="row">
        <button type="button" disabled={above === null} onClick={() => above !== null && void list(above)}>
          Up
        </button>
        <code class="path">{path.value}</code>
        <button type="button" onClick={() => void list(path.value)}>
          Refresh
        </button>
        <label class="button">
          Upload
          <input
            type="file"
            multiple
            onChange={({ currentTarget }) => {
              void upload(currentTarget.files).then(() => {
                currentTarget.value = '';
              });
            }}
          />
        </label>
      </div>
      <p class="trouble" role="alert">
        {failed.value}
      </p>
      <p class="said" role="status">
        {told.value}
      </p>
      {entries.value?.length === 0 && (
        <p class="empty">Nothing is here yet. Upload a file, or make one in the terminal.</p>
      )}
      <ul>
        {entries.value?.map((entry) => (
          <li key={entry.path}>
            {entry.isDir ? (
              <button class="name" type="button" onClick={() => void list(entry.path)}>
                {entry.name}/
              </button>
            ) : (
              <span class="name">{entry.name}</span>
            )}
            <span class="number">{entry.isDir ? '' : size(entry.size)}</span>
            {entry.kind === 'file' && (
              <button
                type="button"
                aria-label={`Download ${entry.name}`}
                onClick={() => void download(entry)}
              >
                Download
              </button>
            )}
            <button type="button" aria-label={`Remove ${entry.name}`} onClick={() => askToRemove(entry)}>
              Remove
            </button>
          </li>
        ))}
      </ul>
      {more.value && <p class="quiet">There are more than are shown here.</p>}
    </section>
  );
}

/** Gives a file to the browser, which puts it where downloads go. */
function save(name: string, content: Blob): void {
  const link = document.createElement('a');
  link.href = URL.createObjectURL(content);
  link.download = name;
  link.click();
  // Not at once: some browsers only begin to read it now.
  setTimeout(() => URL.revokeObjectURL(link.href), SAVE_MS);
}
