// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

// Package places says which attempts may be under way. A place is the right to
// make one attempt. There is a bound on all places, one on those of a provider
// if it names one, and one gate a model, which closes while the provider refuses
// attempts as there are too many.
//
// What the package promises:
//
//   - A place goes to the namespace that holds fewest, of those which could take
//     it; of two that hold as many, to the one that was served longer ago. Within
//     a namespace the oldest run comes first.
//   - No place stays free while a run waits that may take it.
//   - A freed place is given at once: it is reserved for a run, which is woken.
//   - A model that a provider refuses is probed by few: no more attempts are under
//     way there than it had accepted, plus what it is seen to take; and one at a
//     time if it takes none.
//
// Nothing is kept over a restart: every run asks again then, and its age is what
// gives it its turn. docs/decisions/0014-places.md describes the algorithm.
//
// Nothing here knows Kubernetes.
package places
