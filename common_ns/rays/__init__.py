"""Mathematics along rays that families share, in tensors only; each function is tested against a slow loop or integral.

=====================  ================================================  ============================================
module                 holds                                             source
=====================  ================================================  ============================================
`cones`                Gaussians of the cones that pixels cast           mip-NeRF, section 3.1, equations 7, 8 and 16
`positional_encoding`  sines and cosines in octaves, also integrated     NeRF, equation 4; mip-NeRF, equation 14
`icosahedron`          directions to encode along                        mip-NeRF 360, section 2 and supplement
`contraction`          all of space in a ball, also for Gaussians        mip-NeRF 360, equations 7, 8, 10 and 12
`forward_facing`       a camera's view in a cube, also for Gaussians     NeRF, appendix C
`power_ladder`         a curve of distances for all kinds of scene       Zip-NeRF
`stepfun`              weights dilated, annealed and drawn from          mip-NeRF, equation 18; mip-NeRF 360, sup.
`transmittance`        rendering weights from optical depths             NeRF, equation 3
`random_numbers`       a training ray's random numbers, by name          none: so that chunks change nothing
`per_ray`              values with a row for each ray, cut and joined    none
=====================  ================================================  ============================================

NeRF is arXiv 2003.08934, mip-NeRF 2103.13415, mip-NeRF 360 2111.12077, Zip-NeRF 2304.06706.
"""
