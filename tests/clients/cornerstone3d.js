// cornerstone3D as it comes, and a way to ask its loader for a frame; it knows nothing of the server.
import { cache, imageLoader, init } from '@cornerstonejs/core';
import dicomImageLoader, { init as initLoader } from '@cornerstonejs/dicom-image-loader';

await init();
initLoader({ maxWebWorkers: 1 });

/** Load a frame once for each of the retrieve options, and give what came: its size, and the sum and mix of its samples. */
async function load(imageId, metadata, options = [null]) {
  // Of a multi-frame, it takes the metadata of frame 1 for every frame.
  dicomImageLoader.wadors.metaDataManager.add(imageId.replace(/\d+$/, '1'), metadata);
  const pictures = [];
  for (const retrieveOptions of options) {
    const image = await imageLoader.loadImage(imageId, retrieveOptions ? { retrieveOptions } : {});
    pictures.push({
      columns: image.columns,
      rows: image.rows,
      counted: image.sizeInBytes,
      held: image.imageFrame?.imageData?.data?.byteLength ?? 0,
      samples: Array.from(image.getPixelData()),
    });
    cache.purgeCache();
  }
  return pictures;
}

window.clients = { load };
