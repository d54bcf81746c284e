#include "common/metrics/coordinator_metrics.h"

namespace crescendo {

CoordinatorMetrics::CoordinatorMetrics(prometheus::Registry& registry)
    : leases_granted_total(MakeCounter(registry, "crescendo_coordinator_leases_granted_total",
                                       "Groups granted to a worker.")),
      leases_expired_total(MakeCounter(registry, "crescendo_coordinator_leases_expired_total",
                                       "Leases that were not renewed in time.")),
      leases_abandoned_total(MakeCounter(registry, "crescendo_coordinator_leases_abandoned_total",
                                         "Leases handed back unfinished.")),
      groups_completed_total(MakeCounter(registry, "crescendo_coordinator_groups_completed_total",
                                         "Groups that ended.")),
      late_completions_total(MakeCounter(registry, "crescendo_coordinator_late_completions_total",
                                         "Completions of a lease that another had won.")),
      heartbeats_total(
          MakeCounter(registry, "crescendo_coordinator_heartbeats_total", "Heartbeats answered.")),
      steps_total(
          MakeCounter(registry, "crescendo_coordinator_steps_total", "Training steps reported.")),
      steps_rolled_back_total(
          MakeCounter(registry, "crescendo_coordinator_steps_rolled_back_total",
                      "Steps forgotten because the learner came back with an older checkpoint.")),
      stage_changes_total(
          MakeCounter(registry, "crescendo_coordinator_stage_changes_total", "Stages that ended.")),
      second_leases_total(MakeCounter(registry, "crescendo_coordinator_second_leases_total",
                                      "Groups of slow workers that went to a second worker too.")),
      quarantines_total(MakeCounter(registry, "crescendo_coordinator_quarantines_total",
                                    "Times that a worker was quarantined.")),
      evaluations_total(MakeCounter(registry, "crescendo_coordinator_evaluations_total",
                                    "Evaluations finished.")),
      refused_calls_total(MakeCounter(registry, "crescendo_coordinator_refused_calls_total",
                                      "Calls and connections that were refused, by reason.",
                                      {{"reason", "request"}})),
      generated_tokens_total(MakeCounter(registry, "crescendo_coordinator_generated_tokens_total",
                                         "Completion tokens of finished groups and evaluations.")),
      trained_tokens_total(MakeCounter(registry, "crescendo_coordinator_trained_tokens_total",
                                       "Completion tokens with a non-zero weight in a loss.")),
      healthy_workers(MakeGauge(registry, "crescendo_coordinator_workers",
                                "Rollout workers, by state.", {{"state", "healthy"}})),
      slow_workers(MakeGauge(registry, "crescendo_coordinator_workers",
                             "Rollout workers, by state.", {{"state", "slow"}})),
      lost_workers(MakeGauge(registry, "crescendo_coordinator_workers",
                             "Rollout workers, by state.", {{"state", "lost"}})),
      draining_workers(MakeGauge(registry, "crescendo_coordinator_workers",
                                 "Rollout workers, by state.", {{"state", "draining"}})),
      quarantined_workers(MakeGauge(registry, "crescendo_coordinator_workers",
                                    "Rollout workers, by state.", {{"state", "quarantined"}})),
      pending_groups(MakeGauge(registry, "crescendo_coordinator_pending_groups",
                               "Groups that wait for a worker.")),
      leased_groups(
          MakeGauge(registry, "crescendo_coordinator_leased_groups", "Groups under a lease.")),
      buffered_groups(MakeGauge(registry, "crescendo_coordinator_buffered_groups",
                                "Whole groups that wait to be trained.")),
      step(MakeGauge(registry, "crescendo_coordinator_step", "Steps trained.")),
      stage(MakeGauge(registry, "crescendo_coordinator_stage", "Index of the stage, from 0.")),
      context_tokens(MakeGauge(registry, "crescendo_coordinator_context_tokens",
                               "Context limit of the stage.")),
      pass_at_1_ratio(MakeGauge(registry, "crescendo_coordinator_pass_at_1_ratio",
                                "pass@1 of the last evaluation.")),
      tokens_per_second(MakeGauge(registry, "crescendo_coordinator_tokens_per_second",
                                  "Generated tokens a second over all workers.")),
      awaiting_seconds(MakeGauge(
          registry, "crescendo_coordinator_awaiting_seconds",
          "How long the run has been waiting for something that is late; 0 when nothing is.")),
      gpu_seconds(prometheus::BuildGauge()
                      .Name("crescendo_coordinator_gpu_seconds")
                      .Help("GPU-seconds of the run so far, by service and GPU type.")
                      .Register(registry)),
      core_seconds(prometheus::BuildGauge()
                       .Name("crescendo_coordinator_core_seconds")
                       .Help("CPU core-seconds of the run so far, by service and GPU type.")
                       .Register(registry)),
      cost_money(prometheus::BuildGauge()
                     .Name("crescendo_coordinator_cost_money")
                     .Help("What the run has cost so far, in the unit of cost.currency.")
                     .Register(registry)),
      projected_gpu_seconds(MakeGauge(registry, "crescendo_coordinator_projected_gpu_seconds",
                                      "GPU-seconds at the end of the run; 0 while not known.")),
      projected_cost_money(MakeGauge(registry, "crescendo_coordinator_projected_cost_money",
                                     "Cost at the end of the run; 0 while not known.")),
      awaited_seconds(
          registry, "crescendo_coordinator_awaited_seconds",
          "How long the run has been waiting for something late, by whom it waits for."),
      quarantined_worker_seconds(registry, "crescendo_coordinator_quarantined_worker_seconds",
                                 "For how long a worker stays quarantined, and why."),
      rule_value(registry, "crescendo_coordinator_rule_value",
                 "What a rule of the curriculum looks at, over the stage so far."),
      rule_threshold(registry, "crescendo_coordinator_rule_threshold",
                     "Where a rule of the curriculum begins to hold."),
      stage_ends(registry, "crescendo_coordinator_stage_ends",
                 "Stages of the run that ended, by the rule that ended them."),
      evaluation_pass_at_1_ratio(registry, "crescendo_coordinator_evaluation_pass_at_1_ratio",
                                 "pass@1 of the newest evaluation, by set."),
      journal_commit_seconds(MakeHistogram(registry, "crescendo_coordinator_journal_commit_seconds",
                                           "Duration of one commit to the journal.",
                                           ExponentialBuckets(0.00005, 2, 16))) {}

}  // namespace crescendo
