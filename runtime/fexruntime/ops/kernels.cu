// What is done to pixels and raw outputs around the networks: plain CUDA C, one thread an output element.
//
// The same source is compiled by NVRTC for a GPU and by g++ for a CPU, and gives the bits of its NumPy twins (ops/twins.py).
// What keeps it so: no contraction of a*b+c (--fmad=false, -ffp-contract=off), no fast maths, NumPy's order of operations,
// no shared memory, atomics for counters alone. exp is computed in double and rounded.

#ifdef FEXPORT_HOST
#include <cmath>
#include <cstdint>
#else
typedef unsigned char uint8_t;
typedef int int32_t;
typedef long long int64_t;
#endif

__device__ static inline int64_t element() { return (int64_t)blockIdx.x * blockDim.x + threadIdx.x; }
__device__ static inline float unit(uint8_t value) { return (float)value / 255.0f; }
__device__ static inline int clipped(int64_t at, int size) { return at < 0 ? 0 : at >= size ? size - 1 : (int)at; }

// A frame is a row of `views`: address, height, width, and the bytes from one row, column and channel to the next.
enum { ADDRESS, HEIGHT, WIDTH, ROW, COLUMN, CHANNEL, VIEW };

__device__ static inline uint8_t pixel(const int64_t* view, int64_t row, int64_t column, int channel) {
    return ((const uint8_t*)view[ADDRESS])[row * view[ROW] + column * view[COLUMN] + channel * view[CHANNEL]];
}

// views of B frames of one size -> out [B,3,H,W]: (value - mean) / std
KERNEL(frame_to_tensor)(const int64_t* views, float* out, const float* mean, const float* std, int frames) {
    const int64_t at = element(), width = views[WIDTH], area = views[HEIGHT] * width;
    if (at >= 3 * area * frames) return;
    const int64_t plane = at / area, within = at - plane * area;
    const int channel = (int)(plane % 3);
    const uint8_t value = pixel(views + VIEW * (plane / 3), within / width, within % width, channel);
    out[at] = ((float)value - mean[channel]) / std[channel];
}

// one view -> out [CH,CW,3] uint8: resized to rows x columns (taps along x, then along y, rounded to even), black about it
KERNEL(rescale)(const int64_t* view, const int64_t* across, const float* by_x, const int64_t* down, const float* by_y,
                uint8_t* out, int taps_x, int taps_y, int rows, int columns, int top, int left, int height, int width) {
    const int64_t at = element();
    if (at >= (int64_t)height * width * 3) return;
    const int channel = (int)(at % 3), row = (int)(at / 3 / width) - top, column = (int)(at / 3 % width) - left;
    out[at] = 0;
    if (row < 0 || row >= rows || column < 0 || column >= columns) return;
    float total = 0.0f;
    for (int v = 0; v < taps_y; ++v) {
        const int64_t line = down[(int64_t)row * taps_y + v];
        const int64_t* from = across + (int64_t)column * taps_x;
        const float* by = by_x + (int64_t)column * taps_x;
        float part = (float)pixel(view, line, from[0], channel) * by[0];
        for (int u = 1; u < taps_x; ++u) part = part + (float)pixel(view, line, from[u], channel) * by[u];
        const float share = part * by_y[(int64_t)row * taps_y + v];
        total = v == 0 ? share : total + share;
    }
    const float whole = rintf(total);
    out[at] = (uint8_t)(whole < 0.0f ? 0.0f : whole > 255.0f ? 255.0f : whole);
}

// grid_sample's padding_mode="reflection", align_corners=False
__device__ static inline float reflected(float at, int size) {
    const float grid = 2.0f * (at + 0.5f) / (float)size - 1.0f;
    const float pixel = (grid + 1.0f) * (float)(size / 2.0) - 0.5f;
    const float period = (float)(2 * (int64_t)size);
    float phase = fabsf(pixel + 0.5f);
    phase = phase - truncf(phase / period) * period;
    const float other = period - phase;
    const float mirrored = (phase < other ? phase : other) - 0.5f;
    const float last = (float)(size - 1);
    return mirrored < 0.0f ? 0.0f : mirrored > last ? last : mirrored;
}

// made for corners at the outermost pixel centres, read as if they were the pixels' edges
__device__ static inline float stretched(float at, int size) {
    const float grid = 2.0f * at / (float)(size - 1) - 1.0f;
    const float pixel = (grid + 1.0f) * (float)(size / 2.0) - 0.5f;
    const float last = (float)(size + 1);
    return pixel < -2.0f ? -2.0f : pixel > last ? last : pixel;
}

// views, the view of each crop (-1: none), sample [N,4] left, top, width, height -> out [N,3,S,S]; mirrored: 1 square-pad, 0 anisotropic
KERNEL(crop)(const int64_t* views, const int32_t* frame_of, const float* sample, float* out, int count, int side, int mirrored) {
    const int64_t at = element(), area = (int64_t)side * side;
    if (at >= count * area) return;
    const int n = (int)(at / area), row = (int)(at % area) / side, column = (int)(at % side);
    float total[3] = {0.0f, 0.0f, 0.0f};
    if (frame_of[n] >= 0) {
        const int64_t* view = views + VIEW * (int64_t)frame_of[n];
        const int height = (int)view[HEIGHT], width = (int)view[WIDTH];
        const float* s = sample + 4 * (int64_t)n;
        const float across = s[0] + ((float)column + 0.5f) / (float)side * s[2];
        const float down = s[1] + ((float)row + 0.5f) / (float)side * s[3];
        const float x = mirrored ? reflected(across, width) : stretched(across, width);
        const float y = mirrored ? reflected(down, height) : stretched(down, height);
        const float x0 = floorf(x), y0 = floorf(y), wx = x - x0, wy = y - y0;
        for (int dy = 0; dy < 2; ++dy) {
            const int64_t r = (int64_t)y0 + dy;
            for (int dx = 0; dx < 2; ++dx) {
                const int64_t c = (int64_t)x0 + dx;
                const bool inside = r >= 0 && r < height && c >= 0 && c < width;
                const float weight = (dy ? wy : 1.0f - wy) * (dx ? wx : 1.0f - wx) * (inside ? 1.0f : 0.0f);
                const int64_t in_row = clipped(r, height), in_column = clipped(c, width);
                for (int k = 0; k < 3; ++k) total[k] = total[k] + unit(pixel(view, in_row, in_column, k)) * weight;
            }
        }
    }
    for (int k = 0; k < 3; ++k) out[((int64_t)n * 3 + k) * area + (int64_t)row * side + column] = total[k];
}

// chips [N,3,S,S] -> out [N,3,T,T]: taps along x, then along y, then (value - mean) / std; source and weight are [T,K]
KERNEL(resize_normalise)(const float* chips, const int64_t* source, const float* weight, const float* mean, const float* std,
                         float* out, int count, int side, int target, int taps) {
    const int64_t at = element(), area = (int64_t)target * target;
    if (at >= count * 3 * area) return;
    const int64_t plane = at / area;
    const int row = (int)(at % area) / target, column = (int)(at % target), channel = (int)(plane % 3);
    const float* chip = chips + plane * side * side;
    float total = 0.0f;
    for (int v = 0; v < taps; ++v) {
        const float* line = chip + source[(int64_t)row * taps + v] * side;
        const int64_t* from = source + (int64_t)column * taps;
        const float* by = weight + (int64_t)column * taps;
        float part = line[from[0]] * by[0];
        for (int u = 1; u < taps; ++u) part = part + line[from[u]] * by[u];
        const float share = part * weight[(int64_t)row * taps + v];
        total = v == 0 ? share : total + share;
    }
    out[at] = (total - mean[channel]) / std[channel];
}

// conf [B,A,2] -> flat indices of anchors whose second score is at least `least`, in no order; count[0] of them
KERNEL(candidates)(const float* conf, int64_t* found, int32_t* count, float least, int64_t anchors) {
    const int64_t at = element();
    if (at >= anchors || !(conf[2 * at + 1] >= least)) return;
    found[atomicAdd(count, 1)] = at;
}

// the candidates, best score first, of equal ones the earlier anchor; those that come after `most` are left out
KERNEL(ranked)(const float* conf, const int64_t* found, const int32_t* count, int64_t* order, int most) {
    const int64_t at = element();
    if (at >= *count) return;
    const int64_t mine = found[at];
    const float score = conf[2 * mine + 1];
    int rank = 0;
    for (int k = 0; k < *count; ++k) {
        const float other = conf[2 * found[k] + 1];
        rank += other > score || (other == score && found[k] < mine);
    }
    if (rank < most) order[rank] = mine;
}

// loc [B,A,4], landmarks [B,A,10] (or none), priors [A,4] -> faces [N,15]: corners, score, five points, in pixels
KERNEL(decode)(const float* loc, const float* conf, const float* landmarks, const float* priors, const int64_t* order,
               const int32_t* count, float* faces, int most, int64_t anchors, float first, float second, int height,
               int width) {
    const int64_t at = element();
    if (at >= *count || at >= most) return;
    const int64_t flat = order[at];
    const float *d = loc + 4 * flat, *p = priors + 4 * (flat % anchors);
    const float size[2] = {(float)width, (float)height};
    float* face = faces + 15 * at;
    for (int k = 0; k < 2; ++k) {
        const float centre = p[k] + d[k] * first * p[2 + k];
        const float extent = p[2 + k] * (float)exp((double)(d[2 + k] * second));
        const float low = centre - extent / 2.0f;
        face[k] = low * size[k];
        face[2 + k] = (extent + low) * size[k];
    }
    face[4] = conf[2 * flat + 1];
    for (int k = 0; k < 10; ++k)
        face[5 + k] = landmarks ? (p[k % 2] + landmarks[10 * flat + k] * first * p[2 + k % 2]) * size[k % 2] : 0.0f;
}

// whether the better face a overlaps b too much
__device__ static inline bool overlaps(const float* a, const float* b, double iou) {
    const float right = a[2] < b[2] ? a[2] : b[2], left = a[0] > b[0] ? a[0] : b[0];
    const float bottom = a[3] < b[3] ? a[3] : b[3], top = a[1] > b[1] ? a[1] : b[1];
    const float across = right - left > 0.0f ? right - left : 0.0f, down = bottom - top > 0.0f ? bottom - top : 0.0f;
    const float shared = across * down;
    const float areas = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]);
    return (double)(shared / (areas - shared)) > iou;
}

// faces [N,15], best first, of the frames order/anchors -> rows [B,keep,15] that are left of each frame, counts [B] of them;
// greedy suppression, one thread a frame
KERNEL(suppress)(const float* faces, const int64_t* order, const int32_t* count, float* rows, int32_t* counts, int frames,
                 int most, int64_t anchors, double iou, int keep) {
    const int64_t frame = element();
    if (frame >= frames) return;
    const int last = *count < most ? *count : most;
    float* kept = rows + 15 * (int64_t)keep * frame;
    int left = 0;
    for (int i = 0; i < last && left < keep; ++i) {
        if (order[i] / anchors != frame) continue;
        const float* face = faces + 15 * (int64_t)i;
        bool alive = true;
        for (int k = 0; k < left && alive; ++k) alive = !overlaps(kept + 15 * (int64_t)k, face, iou);
        if (!alive) continue;
        for (int k = 0; k < 15; ++k) kept[15 * (int64_t)left + k] = face[k];
        ++left;
    }
    counts[frame] = left;
}

// rows [B,keep,15] and counts [B] of the finder's frames, factors [B,2] to the frames themselves, the best `each` of a frame
// -> boxes [S,4] one after another, and the frame of each (-1 where there are no more)
KERNEL(slots)(const float* rows, const int32_t* counts, const float* factors, float* boxes, int32_t* frame_of, int frames,
              int keep, int each, int slots) {
    const int64_t at = element();
    if (at >= slots) return;
    int64_t before = 0;
    int frame = 0;
    for (; frame < frames; ++frame) {
        const int mine = counts[frame] < each ? counts[frame] : each;
        if (at < before + mine) break;
        before += mine;
    }
    frame_of[at] = frame < frames ? frame : -1;
    for (int k = 0; k < 4; ++k)
        boxes[4 * at + k] =
            frame < frames ? rows[15 * ((int64_t)frame * keep + at - before) + k] * factors[2 * frame + k % 2] : 0.0f;
}

// boxes [N,4] -> where crops are read, sample [N,4] left, top, width, height, and what decodes them, region [N,4] corners
KERNEL(locate)(const float* boxes, float* sample, float* region, int count, int square, float expand) {
    const int64_t at = element();
    if (at >= count) return;
    const float* box = boxes + 4 * at;
    const float across = box[2] - box[0], down = box[3] - box[1];
    const float x = (box[0] + box[2]) / 2.0f, y = (box[1] + box[3]) / 2.0f;
    float *s = sample + 4 * at, *r = region + 4 * at;
    if (square) {
        const float longer = (across > down ? across : down) * expand, side = longer > 1.0f ? longer : 1.0f;
        s[0] = r[0] = x - side / 2.0f;
        s[1] = r[1] = y - side / 2.0f;
        s[2] = s[3] = side;
        r[2] = r[0] + side;
        r[3] = r[1] + side;
        return;
    }
    const float half_w = across * expand / 2.0f, half_h = down * expand / 2.0f;
    const float corners[4] = {x - half_w, y - half_h, x + half_w, y + half_h};
    for (int k = 0; k < 2; ++k) {
        s[k] = corners[k];
        s[2 + k] = corners[2 + k] - corners[k];
    }
    for (int k = 0; k < 4; ++k) r[k] = rintf(corners[k]);
}

// points [N,K,D] whose x and y are fractions of their crops -> the same in pixels of the frame; regions [N,4] are corners
KERNEL(points_to_frame)(const float* points, const float* regions, float* out, int count, int each, int depth) {
    const int64_t at = element();
    if (at >= (int64_t)count * each * depth) return;
    const int axis = (int)(at % depth);
    const float* region = regions + at / ((int64_t)each * depth) * 4;
    out[at] = axis < 2 ? points[at] * (region[2 + axis] - region[axis]) + region[axis] : points[at];
}

// points [N,2] in pixels of the frame that was seen -> pixels of the original: (p - pad) / scale
KERNEL(points_to_original)(const float* points, float* out, int64_t numbers, float pad_x, float pad_y, float scale) {
    const int64_t at = element();
    if (at < numbers) out[at] = (points[at] - (at % 2 ? pad_y : pad_x)) / scale;
}
