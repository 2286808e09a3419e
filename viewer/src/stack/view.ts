/**
 * Knows cornerstone: one rendering engine, one StackViewport. Tells which frame is PAINTED (not
 * which was asked for), and moves window, zoom and pan.
 *
 * It is only given frames that are decoded and in cornerstone's cache, so showing one is a matter
 * of one animation frame and never of the network.
 */

import {
  Enums,
  RenderingEngine,
  getRenderingCapabilities,
  imageLoader,
  init as initCore,
  setUseCPURendering,
  type Types,
} from '@cornerstonejs/core';
import dicomImageLoader from '@cornerstonejs/dicom-image-loader';
import type { DicomJson } from '../dicom/json';

const ENGINE = 'multiframe';
const VIEWPORT = 'stack';
/** Shares of the fitted size between which the zoom stays. */
const ZOOM_LIMITS = { least: 0.2, most: 40 };

export type Renderer = 'auto' | 'cpu' | 'gpu';
export interface Window {
  width: number;
  centre: number;
}

let usesCpu: boolean | undefined;

/**
 * Starts cornerstone once. A WebGL that is only emulated in software draws a cine at 10 frames a
 * second where cornerstone's CPU renderer reaches 25, so it counts as none.
 */
function startCornerstone(renderer: Renderer): boolean {
  if (usesCpu !== undefined) return usesCpu;
  initCore();
  const { webgl, softwareRasterizer } = getRenderingCapabilities();
  usesCpu = renderer === 'auto' ? !webgl || !!softwareRasterizer : renderer === 'cpu';
  setUseCPURendering(usesCpu);
  dicomImageLoader.init({ maxWebWorkers: Math.max(1, Math.min(4, (navigator.hardwareConcurrency || 2) - 1)) });
  return usesCpu;
}

export class StackView {
  readonly usesCpu: boolean;
  onPainted: (frame: number) => void = () => undefined;
  onChanged: () => void = () => undefined;

  private readonly engine: RenderingEngine;
  private readonly resizing: ResizeObserver;
  private viewport: Types.IStackViewport;
  private imageIds: string[] = [];
  private readonly frameOf = new Map<string, number>();
  private window_: Window | undefined;
  private inverted = false;
  /** Magnification at which the whole picture fits; 0 before there is one. */
  private fitted = 0;

  constructor(
    private readonly element: HTMLDivElement,
    renderer: Renderer,
  ) {
    this.usesCpu = startCornerstone(renderer);
    this.engine = new RenderingEngine(ENGINE);
    this.engine.enableElement({
      viewportId: VIEWPORT,
      element,
      type: Enums.ViewportType.STACK,
      defaultOptions: { background: [0, 0, 0] },
    });
    this.viewport = this.engine.getViewport(VIEWPORT) as Types.IStackViewport;
    this.viewport.getCanvas().dataset['testid'] = 'viewport';
    element.addEventListener(Enums.Events.IMAGE_RENDERED, () => this.painted());
    this.resizing = new ResizeObserver(() => this.resized());
    this.resizing.observe(element);
  }

  /** Puts the metadata where image loader and renderer look for it: before anything is decoded. */
  describe(metadata: DicomJson, imageIds: string[]): void {
    this.imageIds = imageIds;
    imageIds.forEach((imageId, index) => this.frameOf.set(imageId, index + 1));
    // Of a multi-frame instance only frame 1 is entered: the loader derives the others from it.
    dicomImageLoader.wadors.metaDataManager.add(imageIds[0] ?? '', metadata as never);
    imageLoader.registerImageLoader('wadors', (imageId: string) => ({
      promise: Promise.reject(new Error(`${imageId} was to be shown before it was ready.`)),
    }));
  }

  /** The first frame must be decoded. */
  async open(first: number): Promise<void> {
    await this.viewport.setStack(this.imageIds, first - 1);
    this.resized();
  }

  /** The frame must be decoded. `onPainted` tells when it is on the screen. */
  show(frame: number): void {
    void this.viewport.setImageIdIndex(frame - 1).then(() => this.viewport.render());
  }

  get window(): Window | undefined {
    return this.window_ ?? this.ownWindow();
  }

  get isInverted(): boolean {
    return this.inverted;
  }

  /** CSS pixels an image pixel takes. */
  get zoom(): number {
    const image = this.viewport.getCornerstoneImage() as Types.IImage | undefined;
    if (!image) return 1;
    const from = this.viewport.canvasToWorld([0, 0]);
    const to = this.viewport.canvasToWorld([0, 100]);
    const pixels = Math.hypot(to[0] - from[0], to[1] - from[1], to[2] - from[2]) / (image.rowPixelSpacing || 1);
    return pixels > 0 ? 100 / pixels : 1;
  }

  moveWindow(dx: number, dy: number): void {
    const now = this.window;
    const image = this.viewport.getCornerstoneImage() as Types.IImage | undefined;
    if (!now || !image) return;
    const range = image.color ? 256 : Math.max(1, image.maxPixelValue - image.minPixelValue);
    const step = Math.max(range / 1024, 0.001);
    this.setWindow({ width: Math.max(step, now.width + dx * step), centre: now.centre + dy * step });
  }

  zoomBy(factor: number, at?: Types.Point2): void {
    const wanted = this.magnification * factor;
    const next = Math.min(ZOOM_LIMITS.most, Math.max(ZOOM_LIMITS.least, wanted / this.fitted));
    const point = at ?? this.middle();
    const before = this.viewport.canvasToWorld(point);
    this.magnification = next * this.fitted;
    this.shift(before, this.viewport.canvasToWorld(point));
  }

  /** Moves the picture by CSS pixels. */
  pan(dx: number, dy: number): void {
    const middle = this.middle();
    const from = this.viewport.canvasToWorld(middle);
    const to = this.viewport.canvasToWorld([middle[0] + dx, middle[1] + dy]);
    this.shift(from, to);
  }

  invert(): void {
    this.inverted = !this.inverted;
    this.viewport.setProperties({ invert: this.inverted });
    this.redraw();
  }

  reset(): void {
    this.window_ = undefined;
    this.inverted = false;
    const own = this.ownWindow();
    this.viewport.setProperties({ invert: false });
    if (own) this.viewport.setProperties({ voiRange: rangeOf(own) });
    this.fit();
    this.redraw();
  }

  close(): void {
    this.resizing.disconnect();
    this.onPainted = () => undefined;
    this.onChanged = () => undefined;
    this.engine.destroy();
    const [first] = this.imageIds;
    if (first) for (const imageId of this.imageIds) dicomImageLoader.wadors.metaDataManager.remove(imageId);
  }

  private setWindow(next: Window): void {
    this.window_ = next;
    this.viewport.setProperties({ voiRange: rangeOf(next) });
    this.redraw();
  }

  private ownWindow(): Window | undefined {
    const image = this.viewport.getCornerstoneImage() as Types.IImage | undefined;
    if (!image) return undefined;
    const width = Array.isArray(image.windowWidth) ? image.windowWidth[0] : image.windowWidth;
    const centre = Array.isArray(image.windowCenter) ? image.windowCenter[0] : image.windowCenter;
    return width === undefined || centre === undefined ? undefined : { width, centre };
  }

  private shift(from: Types.Point3, to: Types.Point3): void {
    const { focalPoint, position } = this.viewport.getCamera();
    if (!focalPoint || !position) return;
    const moved = (point: Types.Point3): Types.Point3 => [
      point[0] - to[0] + from[0],
      point[1] - to[1] + from[1],
      point[2] - to[2] + from[2],
    ];
    this.viewport.setCamera({ focalPoint: moved(focalPoint), position: moved(position) });
    this.redraw();
  }

  private redraw(): void {
    this.viewport.render();
    this.onChanged();
  }

  private middle(): Types.Point2 {
    return [this.element.clientWidth / 2, this.element.clientHeight / 2];
  }

  /**
   * Proportional to the size on the screen. The CPU renderer keeps a scale in device pixels; what
   * it calls parallelScale is off by the device's pixel ratio, so it is not used there.
   */
  private get magnification(): number {
    return this.usesCpu ? this.viewport.getZoom() : 1 / (this.viewport.getCamera().parallelScale ?? 1);
  }

  private set magnification(value: number) {
    if (this.usesCpu) this.viewport.setZoom(value);
    else this.viewport.setCamera({ parallelScale: 1 / value });
  }

  private fit(): void {
    this.viewport.resetCamera();
    this.fitted = this.magnification;
  }

  /** The picture is fitted anew, but a zoom that was chosen stays. */
  private resized(): void {
    if (this.element.clientWidth === 0 || !this.viewport.getCornerstoneImage()) return;
    const chosen = this.fitted > 0 ? this.magnification / this.fitted : 1;
    if (this.usesCpu) this.resizeCpuCanvas();
    else this.engine.resize(true, false);
    this.fit();
    if (Math.abs(chosen - 1) > 0.01) this.zoomBy(chosen);
    this.redraw();
  }

  /** cornerstone's own CPU resize makes the canvas one device pixel for each CSS pixel: blurred. */
  private resizeCpuCanvas(): void {
    const canvas = this.viewport.getCanvas();
    const ratio = window.devicePixelRatio || 1;
    const width = Math.round(this.element.clientWidth * ratio);
    const height = Math.round(this.element.clientHeight * ratio);
    if (canvas.width === width && canvas.height === height) return;
    canvas.width = width;
    canvas.height = height;
    canvas.style.aspectRatio = 'auto';
  }

  /** Asks the renderer for the image it has drawn: the index may already be one further. */
  private painted(): void {
    const image = this.viewport.getCornerstoneImage() as Types.IImage | undefined;
    const frame = image && this.frameOf.get(image.imageId);
    if (frame) this.onPainted(frame);
  }
}

function rangeOf({ width, centre }: Window): Types.VOIRange {
  return { lower: centre - width / 2, upper: centre + width / 2 };
}
