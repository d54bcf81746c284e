// Grades answers: from a model's whole text and the gold answers to a verdict.
//
// The same query always gets the same grade, on any machine and under any load: budgets are counted
// in operations, and nothing here looks at a clock, a file, or a generator that is not seeded by
// the query.
//
// Thread rule: one Grader belongs to one thread (it keeps a cache of parsed gold answers without a
// lock); make one for each thread of a pool. Owns its options and its cache.
#ifndef CRESCENDO_SERVICES_REWARD_GRADER_H_
#define CRESCENDO_SERVICES_REWARD_GRADER_H_

#include <memory>

#include "services/reward/answer_extractor.h"
#include "services/reward/grade.h"

namespace crescendo {

struct GraderOptions {
  ExtractorOptions extractor;
  double reward_correct = 1;
  double reward_incorrect = 0;
  double reward_undecided = 0;
};

class Grader {
 public:
  explicit Grader(GraderOptions options);
  ~Grader();
  Grader(const Grader&) = delete;
  Grader& operator=(const Grader&) = delete;

  // Never fails: what cannot be decided is Verdict::kUndecided with its reason. Does not block.
  // Answers every kind by the mathematics of "math"; the adapter routes other kinds elsewhere.
  Grade Evaluate(const GradeQuery& query);

  const GraderOptions& options() const;

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace crescendo

#endif  // CRESCENDO_SERVICES_REWARD_GRADER_H_
