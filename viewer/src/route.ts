/**
 * Knows the addresses inside the app: they live behind `#`, so that any static host can serve it.
 * Pure, but for `go`.
 */

export interface InstancePlace {
  study: string;
  series: string;
  instance: string;
}

export type Route =
  | { page: 'studies' }
  | { page: 'study'; study: string }
  | ({ page: 'stack'; frame: number } & InstancePlace);

const UID = '([0-9.]{1,64})';
const STUDY = new RegExp(`^/study/${UID}/?$`);
const STACK = new RegExp(`^/study/${UID}/series/${UID}/instance/${UID}/?$`);

export function parseRoute(hash: string): Route {
  const [path = '', query = ''] = hash.replace(/^#/, '').split('?');
  const stack = STACK.exec(path);
  if (stack) {
    const [, study = '', series = '', instance = ''] = stack;
    const asked = Number.parseInt(new URLSearchParams(query).get('frame') ?? '1', 10);
    return { page: 'stack', study, series, instance, frame: asked >= 1 ? asked : 1 };
  }
  const study = STUDY.exec(path);
  if (study?.[1]) return { page: 'study', study: study[1] };
  return { page: 'studies' };
}

export function studyHash(study: string): string {
  return `#/study/${study}`;
}

export function stackHash(place: InstancePlace, frame = 1): string {
  const tail = frame > 1 ? `?frame=${frame}` : '';
  return `#/study/${place.study}/series/${place.series}/instance/${place.instance}${tail}`;
}

/** Whether a hash is the address of an instance, at whatever frame. */
export function isAt(place: InstancePlace, hash: string): boolean {
  const [here] = stackHash(place).split('?');
  return hash.split('?')[0] === here;
}
