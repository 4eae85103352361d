"""GLSL programs. Rows of all images run downwards, as the camera's matrix turns them."""

from __future__ import annotations

# What a vertex takes from its material: 4 texels, see `scene.Material`.
SURFACE_VERTEX = """
#version 330
uniform mat4 view, shade;
uniform sampler2D materials;
in vec3 point, normal;
in vec2 uv;
in float material;
out vec3 at, up;
invariant gl_Position;  // the depth of the motion's pass is compared with
out vec2 where;
out vec4 shadowed;
flat out vec4 m0, m1, m2, m3;
void main() {
    int m = int(material);
    m0 = texelFetch(materials, ivec2(0, m), 0);
    m1 = texelFetch(materials, ivec2(1, m), 0);
    m2 = texelFetch(materials, ivec2(2, m), 0);
    m3 = texelFetch(materials, ivec2(3, m), 0);
    at = point;
    up = normal;
    where = uv;
    shadowed = vec4((shade * vec4(point, 1.0)).xyz * 0.5 + vec3(0.5, 0.5, 0.498), 1.0);
    gl_Position = view * vec4(point, 1.0);
}
"""

SURFACE_FRAGMENT = """
#version 330
uniform sampler2DArray textures;
uniform vec3 eye, sun, sunlight, sky, ground, haze, lamp, lamplight;
uniform float density, moment;
#ifdef SHADOWS
uniform sampler2DShadow shadows;
#endif
#ifdef GLOSS
uniform float mirrored;
#endif
in vec3 at, up;
in vec2 where;
in vec4 shadowed;
flat in vec4 m0, m1, m2, m3;
out vec4 colour;
void main() {
    vec3 ahead = at - eye;
    float far = length(ahead);
    vec3 look = ahead / far;
    vec2 extent = vec2(textureSize(textures, 0).xy);
    vec2 uv = where * m0.y * vec2(1.0, extent.x / extent.y) + m1.w;
    vec3 coarse = texture(textures, vec3(uv, m0.x)).rgb;
    vec3 fine = texture(textures, vec3(uv * 5.3, m0.x)).rgb;
    vec3 t = clamp(coarse + (fine - 0.45) * m3.w, 0.0, 1.0);
    vec3 base = m1.rgb * (1.0 - m2.w) + t * t * m2.rgb * m2.w;
    vec3 n = normalize(up);
    n = dot(n, look) > 0.0 ? -n : n;
#ifdef WATER
    if (m3.z > 0.0) {
        vec2 w = at.xz * (1.7 + m3.z);
        n.xz += 0.1 * m3.z * vec2(sin(w.x * 3.1 + w.y + moment * 5.0) + sin(w.x - w.y * 4.3 - moment * 7.0),
                                  sin(w.y * 2.7 - w.x + moment * 6.0) + sin(w.y * 1.3 + w.x * 3.7 + moment));
        n = normalize(n);
    }
#endif
    float lit = max(dot(n, sun), 0.0);
#ifdef SHADOWS
    lit *= textureProj(shadows, shadowed);
#endif
    vec3 light = mix(ground, sky, 0.5 - 0.5 * n.y) + lit * sunlight;
    vec3 to_lamp = lamp - at;
    float near = dot(to_lamp, to_lamp);
    light += lamplight * max(dot(n, to_lamp), 0.0) * inversesqrt(near) / (1.0 + near);
    vec3 seen = base * mix(light, vec3(1.0), m3.x);
#ifdef GLOSS
    vec3 back = reflect(look, n);
    seen += m3.y * (sunlight * lit * 3.0) * pow(max(dot(back, sun), 0.0), 8.0 + 60.0 * m3.y);
    vec2 around = vec2(atan(back.x, back.z) * 0.3183, back.y);
    vec3 image = texture(textures, vec3(around, mirrored)).rgb;
    float rim = m3.y * (0.1 + 0.7 * pow(1.0 + dot(look, n), 3.0));
    seen = mix(seen, image * image * sky * 2.0, clamp(rim, 0.0, 1.0));
#endif
    seen = mix(haze, seen, m3.x > 0.5 ? exp(-density * 60.0) : exp(-density * far));
    colour = vec4(sqrt(clamp(seen, 0.0, 1.0)), 1.0);
}
"""

# The same points in this frame and in the other one.
MOTION_VERTEX = """
#version 330
uniform mat4 view, other_view;
uniform sampler2D materials;
in vec3 point, other;
in vec2 uv;
in float material;
invariant gl_Position;
out vec4 moved;
out float depth;
out vec2 where;
flat out vec2 hole;
void main() {
    hole = texelFetch(materials, ivec2(0, int(material)), 0).zw;
    where = uv;
    moved = other_view * vec4(other, 1.0);
    gl_Position = view * vec4(point, 1.0);
    depth = gl_Position.w;
}
"""

# (dx, dy) px, distance here, distance in the other frame.
MOTION_FRAGMENT = """
#version 330
uniform vec2 size;
uniform sampler2DArray holes;
in vec4 moved;
in float depth;
in vec2 where;
flat in vec2 hole;
out vec4 motion;
void main() {
#ifdef HOLES
    if (hole.x >= 0.0 && texture(holes, vec3(where * hole.y, hole.x)).r < 0.5) discard;
#endif
    vec2 there = (moved.xy / max(moved.w, 0.02) * 0.5 + 0.5) * size;
    motion = vec4(there - gl_FragCoord.xy, depth, moved.w);
}
"""

SHADOW_VERTEX = """
#version 330
uniform mat4 view;
in vec3 point;
void main() { gl_Position = view * vec4(point, 1.0); }
"""

SHADOW_FRAGMENT = """
#version 330
void main() {}
"""

WHOLE_VERTEX = """
#version 330
in vec2 corner;
void main() { gl_Position = vec4(corner, 0.0, 1.0); }
"""

# The point of a pixel is seen in the other frame where nothing nearer is found there.
VISIBLE_FRAGMENT = """
#version 330
uniform sampler2D motion, other;
uniform vec2 size;
out float visible;
void main() {
    vec4 m = texelFetch(motion, ivec2(gl_FragCoord.xy), 0);
    vec2 there = gl_FragCoord.xy + m.xy;
    bool inside = m.w > 0.0 && all(greaterThan(there, vec2(0.0))) && all(lessThan(there, size));
    vec2 corner = floor(there - 0.5);
    float nearest = 0.0;
    for (int i = 0; i < 4; i++) {
        ivec2 p = clamp(ivec2(corner) + ivec2(i & 1, i >> 1), ivec2(0), ivec2(size) - 1);
        nearest = max(nearest, texelFetch(other, p, 0).z);
    }
    visible = inside && m.w < nearest * 1.01 + 0.01 ? 1.0 : 0.0;
}
"""

# Steps at edges are smoothed along them, after FXAA of Timothy Lottes (2009).
SMOOTH_FRAGMENT = """
#version 330
uniform sampler2D sharp;
uniform vec2 size;
out vec4 colour;
const vec3 GREY = vec3(0.299, 0.587, 0.114);
vec3 at(vec2 p) { return texture(sharp, p / size).rgb; }
float grey_at(ivec2 p) { return dot(texelFetch(sharp, clamp(p, ivec2(0), ivec2(size) - 1), 0).rgb, GREY); }
void main() {
    vec2 p = gl_FragCoord.xy;
    ivec2 i = ivec2(p);
    float nw = grey_at(i + ivec2(-1, -1)), ne = grey_at(i + ivec2(1, -1)), m = grey_at(i);
    float sw = grey_at(i + ivec2(-1, 1)), se = grey_at(i + ivec2(1, 1));
    float low = min(m, min(min(nw, ne), min(sw, se))), high = max(m, max(max(nw, ne), max(sw, se)));
    vec2 way = vec2(-((nw + ne) - (sw + se)), (nw + sw) - (ne + se));
    way /= min(abs(way.x), abs(way.y)) + max((nw + ne + sw + se) * 0.03125, 0.0078);
    way = clamp(way, -6.0, 6.0);
    vec3 two = 0.5 * (at(p - way / 6.0) + at(p + way / 6.0));
    vec3 four = 0.5 * two + 0.25 * (at(p - way / 2.0) + at(p + way / 2.0));
    float grey = dot(four, GREY);
    colour = vec4(grey < low || grey > high ? two : four, 1.0);
}
"""

# The largest blur in and around each tile of SPREAD x SPREAD pixels: (vx, vy) px, radius of defocus px.
SPREAD = 16
TILES_FRAGMENT = """
#version 330
uniform sampler2D motion;
uniform float exposure, focus, aperture;
out vec4 most;
void main() {
    ivec2 end = textureSize(motion, 0) - 1, start = ivec2(gl_FragCoord.xy) * 16;
    most = vec4(0.0);
    for (int y = -16; y < 32; y += 4)
        for (int x = -16; x < 32; x += 4) {
            vec4 m = texelFetch(motion, clamp(start + ivec2(x, y), ivec2(0), end), 0);
            vec2 v = m.xy * exposure;
            most.xy = dot(v, v) > dot(most.xy, most.xy) ? v : most.xy;
            most.z = max(most.z, min(aperture * abs(1.0 / m.z - focus), 8.0));
        }
}
"""

# Each pixel gathers what is smeared over it: by motion along the greatest one nearby, by defocus in a disc.
# What lies behind smears only what is smeared itself.
BLUR_FRAGMENT = """
#version 330
uniform sampler2D sharp, motion, tiles;
uniform float exposure, focus, aperture;
uniform vec2 size;
out vec4 colour;
void main() {
    vec2 here = gl_FragCoord.xy;
    vec3 most = texelFetch(tiles, ivec2(here) / 16, 0).xyz;
    most.xy *= min(1.0, 24.0 / max(length(most.xy), 1e-6));
    vec4 mine = texelFetch(motion, ivec2(here), 0);
    float own = min(aperture * abs(1.0 / mine.z - focus), 8.0) + 0.5 * exposure * length(mine.xy);
    float turn = fract(52.9829 * fract(dot(here, vec2(0.06711, 0.00584))));
    vec4 sum = vec4(texelFetch(sharp, ivec2(here), 0).rgb, 1.0) * 0.5;
    sum.rgb *= sum.rgb * 2.0;
    for (int i = 0; i < COUNT; i++) {
        float t = (float(i) + turn) / float(COUNT) - 0.5, a = 6.2832 * (turn + float(i) * 0.618034);
        vec2 lens = most.z * sqrt((float(i) + 0.5) / float(COUNT)) * vec2(cos(a), sin(a));
        vec2 shift = t * most.xy + lens;
        vec2 p = here + shift;
        vec4 m = texelFetch(motion, clamp(ivec2(p), ivec2(0), ivec2(size) - 1), 0);
        float ring = min(aperture * abs(1.0 / m.z - focus), 8.0) + 0.5 * exposure * length(m.xy);
        float reach = m.z < mine.z * 1.02 ? ring : min(ring, own);
        float weight = clamp(reach - length(shift) + 1.0, 0.0, 1.0);
        vec3 c = texture(sharp, p / size).rgb;
        sum += vec4(c * c, 1.0) * weight;
    }
    colour = vec4(sqrt(sum.rgb / sum.a), 1.0);
}
"""
