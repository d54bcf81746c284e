// The adaptive coefficient of the KL to the reference: it grows while the measured KL is above its
// target and shrinks while it is below.
//
//   e = clip((KL - target) / target, -0.2, 0.2),  scale' = scale (1 + e / horizon)
//       Ziegler et al. 2019 (arXiv:1909.08593), section 2.2 (K = 1 / horizon = 0.1 there)
//
// What is kept, in the trainer's state, is the scale: the coefficient in use is that of the
// objective times it, so that a stage may set its own. Pure; thread-safe.
#ifndef CRESCENDO_SERVICES_LEARNER_KL_CONTROL_H_
#define CRESCENDO_SERVICES_LEARNER_KL_CONTROL_H_

namespace crescendo {

// The scale after a step whose KL was `kl` nats a token; unchanged when target is 0 or kl is not
// finite. Requires horizon >= 1 and scale in [kKlScaleMin, kKlScaleMax], where it stays.
inline constexpr double kKlScaleMin = 1e-6;
inline constexpr double kKlScaleMax = 1e6;
double NextKlScale(double scale, double kl, double target, int horizon);

}  // namespace crescendo

#endif  // CRESCENDO_SERVICES_LEARNER_KL_CONTROL_H_
