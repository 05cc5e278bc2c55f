// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"cmp"
	"context"
	"strings"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"chatrun.dev/operator/api/v1alpha1"
	"chatrun.dev/operator/internal/metrics"
)

const (
	// countEvery is how old the number of runs by phase may be. To count 20,000 takes
	// some 10 ms, and whoever may read metrics may do so at any rate.
	countEvery = 5 * time.Second
	// statesTime bounds the look at the cache, which does not answer before it has
	// caught up with the API server.
	statesTime = time.Second
)

// allPhases are all that a run may be in, so that a sum over none of them is 0 and not
// nothing.
var allPhases = []v1alpha1.Phase{
	v1alpha1.PhasePending, v1alpha1.PhaseStreaming, v1alpha1.PhaseRetrying, v1alpha1.PhaseSuspended,
	v1alpha1.PhaseSucceeded, v1alpha1.PhaseFailed, v1alpha1.PhaseCancelled,
}

// finalReasons are those that a run may finish with.
var finalReasons = []string{
	v1alpha1.ReasonCompleted, v1alpha1.ReasonCancelled,
	v1alpha1.ReasonRetriesExhausted, v1alpha1.ReasonRetryAfterTooLong, v1alpha1.ReasonDeadlineExceeded, v1alpha1.ReasonPendingDeadlineExceeded,
	v1alpha1.ReasonMessagesInvalid, v1alpha1.ReasonMessagesChanged, v1alpha1.ReasonMessagesNotKept,
	v1alpha1.ReasonParentNotFound, v1alpha1.ReasonParentFailed, v1alpha1.ReasonParentUnusable,
	v1alpha1.ReasonConversationCycle, v1alpha1.ReasonConversationTooLong, v1alpha1.ReasonOutputRefused,
	v1alpha1.ReasonAuthenticationFailed, v1alpha1.ReasonPermissionDenied, v1alpha1.ReasonQuotaExhausted,
	v1alpha1.ReasonContextLengthExceeded, v1alpha1.ReasonModelNotFound, v1alpha1.ReasonInvalidRequest,
	v1alpha1.ReasonContentFiltered, v1alpha1.ReasonEmptyAnswer,
}

// states are what metrics show of the moment.
func (r *ChatRunReconciler) states(o Options) metrics.States {
	census := &census{count: r.byPhase}
	return metrics.States{
		Exists:  r.providerExists,
		Reasons: finalReasons,
		Runs: func() (map[string]int, bool) {
			return census.now(r.clock.Now())
		},
		Providers:   r.providerStates,
		Attempts:    r.pool.Attempts,
		MaxAttempts: o.MaxConcurrentStreams,
		LeaseHeld:   r.members.Held,
		LogBytes:    r.hub.Bytes,
		MaxLogBytes: r.hub.TotalBytes,
	}
}

// census keeps a count for a while.
type census struct {
	count func(context.Context) (map[string]int, error)

	mu   sync.Mutex
	at   time.Time
	last map[string]int
}

func (c *census) now(now time.Time) (map[string]int, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.last == nil || now.Sub(c.at) >= countEvery {
		ctx, cancel := context.WithTimeout(context.Background(), statesTime)
		defer cancel()
		counted, err := c.count(ctx)
		if err != nil {
			return nil, false
		}
		c.last, c.at = counted, now
	}
	return c.last, true
}

// byPhase counts the runs that are ours: those that we own, and of those that nobody
// owns which fall to us. Over all replicas each run is counted once.
func (r *ChatRunReconciler) byPhase(ctx context.Context) (map[string]int, error) {
	var runs v1alpha1.ChatRunList
	// Nothing of what is listed is changed.
	if err := r.client.List(ctx, &runs, client.UnsafeDisableDeepCopy); err != nil {
		return nil, err
	}
	counted := make(map[string]int, len(allPhases))
	for _, phase := range allPhases {
		counted[string(phase)] = 0
	}
	for i := range runs.Items {
		if run := &runs.Items[i]; r.counts(ctx, run) {
			counted[string(cmp.Or(run.Status.Phase, v1alpha1.PhasePending))]++
		}
	}
	return counted, nil
}

// counts says whether it is we who count a run.
func (r *ChatRunReconciler) counts(ctx context.Context, run *v1alpha1.ChatRun) bool {
	if isFinished(run) {
		return r.members.OwnerOf(run.Namespace, string(run.UID)) == r.members.Me()
	}
	return toRead(ctx, r.client, r.members, run) == ""
}

// providerExists asks the cache, which has all providers once it has any run.
func (r *ChatRunReconciler) providerExists(provider string) bool {
	ctx, cancel := context.WithTimeout(context.Background(), statesTime)
	defer cancel()
	namespace, name, _ := strings.Cut(provider, "/")
	return r.client.Get(ctx, types.NamespacedName{Namespace: namespace, Name: name}, &v1alpha1.ChatProvider{}) == nil
}

// providerStates says how the providers stand that attempts are made at. Places know
// them by their UIDs.
func (r *ChatRunReconciler) providerStates() []metrics.ProviderState {
	standings := r.places.Standings()
	if len(standings) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), statesTime)
	defer cancel()
	var providers v1alpha1.ChatProviderList
	if err := r.client.List(ctx, &providers, client.UnsafeDisableDeepCopy); err != nil {
		return nil
	}
	names := make(map[string]string, len(providers.Items))
	for i := range providers.Items {
		p := &providers.Items[i]
		names[string(p.UID)] = metrics.Provider(p.Namespace, p.Name)
	}
	states := make([]metrics.ProviderState, 0, len(standings))
	for _, s := range standings {
		states = append(states, metrics.ProviderState{
			Provider: cmp.Or(names[s.Provider], metrics.OtherProviders),
			Held:     s.Held, Waiting: s.Waiting, Limit: s.Limit, Gates: s.Gates, Width: s.Width,
		})
	}
	return states
}
