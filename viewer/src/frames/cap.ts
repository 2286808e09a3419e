/** Knows how much real memory frames may take in this browser. Pure. */

const MB = 2 ** 20;
const USUAL = 512 * MB;
const LEAST = 64 * MB;
/** Of each GB the device has; what the browser does not tell is taken for plenty. */
const SHARE_OF_A_GB = 128 * MB;

/** `asked`: megabytes from `?cache=`, for machines that need another figure. */
export function frameMemory(deviceGb: number | undefined, asked: string | null): number {
  const wish = Number.parseFloat(asked ?? '');
  if (Number.isFinite(wish) && wish > 0) return Math.max(LEAST, wish * MB);
  if (!deviceGb) return USUAL;
  return Math.min(USUAL, Math.max(LEAST, deviceGb * SHARE_OF_A_GB));
}
