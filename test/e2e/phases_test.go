// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"chatrun.dev/operator/api/v1alpha1"
	"chatrun.dev/operator/internal/chattest"
	"chatrun.dev/operator/test/harness"
)

// stage is a world with one run in each phase, named after it. A run "holder"
// streams beside them: it has the only place of the provider "full", and
// "waiting" goes on from it.
type stage struct {
	*world
	// open lets everything that streams come to its end.
	open chan struct{}
	runs map[string]*v1alpha1.ChatRun
}

// atFirst is how the runs of a stage stand: phase, reason, and attempts.
var atFirst = map[string]string{
	"pending": "Pending ProviderNotReady 0", "waiting": "Pending WaitingForParent 0", "queued": "Pending Queued 0",
	"streaming": "Streaming Streaming 1", "retrying": "Retrying Retrying 1", "suspended": "Suspended Suspended 0",
	"succeeded": "Succeeded Completed 1", "failed": "Failed AuthenticationFailed 1", "cancelled": "Cancelled Cancelled 0",
}

// with returns how they stand after an event that changes some.
func with(changes map[string]string) map[string]string {
	want := maps.Clone(atFirst)
	maps.Copy(want, changes)
	return want
}

const gone = "gone"

func newStage(ctx context.Context, change ...func(*v1alpha1.ChatRun)) *stage {
	GinkgoHelper()
	s := &stage{open: make(chan struct{}), runs: map[string]*v1alpha1.ChatRun{}}
	DeferCleanup(func() { close(s.open) })
	s.world = newWorld(ctx, func(r chattest.Request) chattest.Response {
		switch strings.TrimPrefix(r.Key, "question of ") {
		case "retrying":
			return chattest.OpenAIServerErrorResponse()
		case "succeeded":
			return chattest.Answer("an answer")
		case "failed":
			return chattest.OpenAIErrorResponse(http.StatusUnauthorized, "invalid_request_error", "invalid_api_key", "no")
		}
		return chattest.Answer("partial ", "text").HoldAfter(1, s.open)
	})
	key := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: s.namespace, Name: "key"}, StringData: map[string]string{"key": "first"}}
	Expect(plane.Client.Create(ctx, key)).To(Succeed())
	s.readyProvider(ctx, withSecret("key", "key"))
	s.readyProvider(ctx, func(p *v1alpha1.ChatProvider) {
		p.Name, p.Spec.Limits = "full", &v1alpha1.ProviderLimits{MaxConcurrentStreams: new(int32(1))}
	})
	at := func(provider string) func(*v1alpha1.ChatRun) {
		return func(r *v1alpha1.ChatRun) { r.Spec.ProviderRef.Name = provider }
	}
	wants := func(d v1alpha1.DesiredState) func(*v1alpha1.ChatRun) {
		return func(r *v1alpha1.ChatRun) { r.Spec.DesiredState = d }
	}
	add := func(name string, own ...func(*v1alpha1.ChatRun)) {
		s.runs[name] = s.run(ctx, name, append(own, change...)...)
	}
	holder := s.run(ctx, "holder", at("full"))
	untilReason(ctx, holder, v1alpha1.ReasonStreaming)
	add("pending", at("absent"))
	add("waiting", func(r *v1alpha1.ChatRun) { r.Spec.ContinueFrom = &v1alpha1.RunReference{Name: "holder"} })
	add("queued", at("full"))
	add("streaming")
	add("retrying", delays(3600000, 3600000))
	add("suspended", wants(v1alpha1.DesiredSuspended))
	add("succeeded")
	add("failed")
	add("cancelled", wants(v1alpha1.DesiredCancelled))
	s.runs["holder"] = holder
	return s
}

// stand returns how the runs stand now.
func (s *stage) stand(ctx context.Context) map[string]string {
	var list v1alpha1.ChatRunList
	if err := plane.Client.List(ctx, &list, client.InNamespace(s.namespace)); err != nil {
		return map[string]string{"": err.Error()}
	}
	stand := map[string]string{}
	for name := range s.runs {
		stand[name] = gone
	}
	for i := range list.Items {
		run := &list.Items[i]
		stand[run.Name] = fmt.Sprintf("%s %s %d", run.Status.Phase, reasonOf(run), attemptOf(run))
	}
	delete(stand, "holder")
	return stand
}

func (s *stage) become(ctx context.Context, want map[string]string) {
	GinkgoHelper()
	Eventually(ctx, func() map[string]string { return s.stand(ctx) }).Should(Equal(want))
}

// all does something to every run that is looked at.
func (s *stage) all(do func(*v1alpha1.ChatRun)) {
	for _, name := range slices.Sorted(maps.Keys(atFirst)) {
		do(s.runs[name])
	}
}

func (s *stage) desire(ctx context.Context, state v1alpha1.DesiredState) {
	GinkgoHelper()
	s.all(func(run *v1alpha1.ChatRun) {
		if run.Name != "cancelled" { // that is final
			setDesired(ctx, run, state)
		}
	})
}

// writes counts what the manager wrote in a namespace.
func (s *stage) writes() int {
	GinkgoHelper()
	requests, err := plane.Requests(s.namespace)
	Expect(err).NotTo(HaveOccurred())
	n := 0
	for _, r := range requests {
		if r.Verb != "get" && r.Verb != "list" {
			n++
		}
	}
	return n
}

// staysQuiet watches for ten seconds that nothing is written any more, and that
// nothing is even looked at.
func staysQuiet(ctx context.Context, stages ...*stage) {
	GinkgoHelper()
	count := func() []int {
		counts := []int{reconciles()}
		for _, s := range stages {
			counts = append(counts, s.writes())
		}
		return counts
	}
	// Events are written behind, and a last look may follow a last write.
	var before []int
	Eventually(ctx, func() bool {
		last := before
		before = count()
		return slices.Equal(last, before)
	}).WithPolling(time.Second).Should(BeTrue())
	Consistently(ctx, count).WithTimeout(10 * time.Second).WithPolling(time.Second).Should(Equal(before))
}

var cancelledAll = with(map[string]string{
	"pending": "Cancelled Cancelled 0", "waiting": "Cancelled Cancelled 0", "queued": "Cancelled Cancelled 0",
	"streaming": "Cancelled Cancelled 1", "retrying": "Cancelled Cancelled 1", "suspended": "Cancelled Cancelled 0",
})

var suspendedAll = with(map[string]string{
	"pending": "Suspended Suspended 0", "waiting": "Suspended Suspended 0", "queued": "Suspended Suspended 0",
	"streaming": "Suspended Suspended 1", "retrying": "Suspended Suspended 1",
})

var _ = Describe("Every phase", func() {
	It("meets every event, and a quiet system stays quiet", func(ctx SpecContext) {
		startManager(ctx)
		stages := map[string]*stage{}
		begin := func(name string, change ...func(*v1alpha1.ChatRun)) *stage {
			By(name)
			s := newStage(ctx, change...)
			stages[name] = s
			return s
		}
		staged := func(name string) *stage {
			s := begin(name)
			s.become(ctx, atFirst)
			return s
		}
		ends := map[string]map[string]string{"nothing": atFirst, "Secret rotated": atFirst}
		staged("nothing")

		s := staged("cancel")
		s.desire(ctx, v1alpha1.DesiredCancelled)
		ends["cancel"] = cancelledAll

		s = staged("suspend")
		s.desire(ctx, v1alpha1.DesiredSuspended)
		ends["suspend"] = suspendedAll

		s = staged("resume")
		s.desire(ctx, v1alpha1.DesiredSuspended)
		s.become(ctx, suspendedAll)
		s.desire(ctx, v1alpha1.DesiredRunning)
		ends["resume"] = with(map[string]string{"streaming": "Streaming Streaming 2", "suspended": "Streaming Streaming 1"})

		s = staged("delete")
		s.all(func(run *v1alpha1.ChatRun) { Expect(plane.Client.Delete(ctx, run)).To(Succeed()) })
		ends["delete"] = map[string]string{}
		for name := range atFirst {
			ends["delete"][name] = gone
		}

		begin("deadline", func(r *v1alpha1.ChatRun) {
			r.Spec.ActiveDeadlineSeconds, r.Spec.PendingDeadlineSeconds = new(int64(2)), new(int64(4))
		})
		late := "Failed PendingDeadlineExceeded 0"
		ends["deadline"] = with(map[string]string{
			"pending": late, "waiting": late, "queued": late,
			"streaming": "Failed DeadlineExceeded 1", "retrying": "Failed DeadlineExceeded 1",
		})

		begin("TTL", func(r *v1alpha1.ChatRun) { r.Spec.TTLSecondsAfterFinished = new(int32(1)) })
		ends["TTL"] = with(map[string]string{"succeeded": gone, "failed": gone, "cancelled": gone})

		s = staged("provider deleted")
		Expect(plane.Client.DeleteAllOf(ctx, &v1alpha1.ChatProvider{}, client.InNamespace(s.namespace))).To(Succeed())
		ends["provider deleted"] = with(map[string]string{
			"queued": "Pending ProviderNotReady 0",
		})

		s = staged("Secret rotated")
		key := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: s.namespace, Name: "key"}, StringData: map[string]string{"key": "second"}}
		Expect(plane.Client.Update(ctx, key)).To(Succeed())

		s = staged("parent gone")
		Expect(plane.Client.Delete(ctx, s.runs["holder"])).To(Succeed())
		ends["parent gone"] = with(map[string]string{"waiting": "Failed ParentNotFound 0", "queued": "Streaming Streaming 1"})

		for name, s := range stages {
			By("what follows " + name)
			s.become(ctx, ends[name])
		}
		Expect(textOf(now(ctx, stages["cancel"].runs["streaming"]))).To(Equal("partial "), "the partial text is kept")
		Expect(textOf(now(ctx, stages["deadline"].runs["streaming"]))).To(Equal("partial "), "also at a deadline")
		// holder's own call, and none of a run that is gone.
		Expect(stages["delete"].fake.Ledger().WaitFor(ctx, func(l *chattest.Ledger) bool { return l.Live() == 1 })).To(Succeed())
		Expect(now(ctx, stages["suspend"].runs["streaming"]).Status.Output).To(BeNil(), "and dropped by a suspension")
		Expect(stages["suspend"].fake.Ledger().CountFor("question of suspended", chattest.PurposeAnswer)).To(BeZero(), "suspended before its start a run costs nothing")
		By("ten seconds of silence")
		staysQuiet(ctx, slices.Collect(maps.Values(stages))...)
		for name, s := range stages {
			Expect(s.stand(ctx)).To(Equal(ends[name]), name)
		}
		By("and the key that was rotated is the one that is used")
		s = stages["Secret rotated"]
		setDesired(ctx, s.runs["suspended"], v1alpha1.DesiredRunning)
		Expect(s.fake.Ledger().WaitFor(ctx, func(l *chattest.Ledger) bool {
			return l.CountFor("question of suspended", chattest.PurposeAnswer) == 1
		})).To(Succeed())
		last := s.fake.Ledger().Requests()
		Expect(last[len(last)-1].Request.Header.Get("Authorization")).To(Equal("Bearer second"))
	}, SpecTimeout(5*time.Minute))

	DescribeTable("outlives the manager", func(ctx SpecContext, end func(*harness.Process) error, told string) {
		// It is there before the stage is set, so its Lease has a place of its own.
		first := newWorld(ctx, chattest.Always(chattest.Answer())).startProcess("first")
		s := newStage(ctx)
		s.become(ctx, atFirst)
		promised := now(ctx, s.runs["retrying"]).Status.RetryingAt
		Expect(end(first)).To(Succeed())
		Expect(s.fake.Ledger().WaitFor(ctx, func(l *chattest.Ledger) bool { return l.Live() == 0 })).To(Succeed())
		startManager(ctx)
		// The place of "full" goes to whoever of the two is looked at first.
		Eventually(ctx, func() map[string]string { return s.stand(ctx) }).Should(Or(
			Equal(with(map[string]string{"streaming": "Streaming Streaming 2"})),
			Equal(with(map[string]string{"streaming": "Streaming Streaming 2", "queued": "Streaming Streaming 1"})),
		))
		Expect(now(ctx, s.runs["retrying"]).Status.RetryingAt).To(Equal(promised))
		Expect(now(ctx, s.runs["streaming"]).Status.LastErrorReason).To(Equal(told))
		staysQuiet(ctx, s)
	},
		Entry("that is told to end", (*harness.Process).Terminate, "", SpecTimeout(2*time.Minute)),
		Entry("that is killed", (*harness.Process).Kill, "WorkerLost", SpecTimeout(2*time.Minute)),
	)

	It("outlives its provider, which may come back", func(ctx SpecContext) {
		gate := make(chan struct{})
		w := newWorld(ctx, func(r chattest.Request) chattest.Response {
			switch {
			case r.Key == "question of streaming":
				return chattest.Answer("the ", "whole").HoldAfter(1, gate)
			case r.Key == "question of retrying" && r.N == 1:
				return chattest.OpenAIServerErrorResponse()
			}
			return chattest.Answer("an answer")
		})
		m := startManager(ctx)
		p := w.readyProvider(ctx)
		streaming, retrying := w.run(ctx, "streaming"), w.run(ctx, "retrying", delays(5000, 5000))
		suspended := w.run(ctx, "suspended", func(r *v1alpha1.ChatRun) { r.Spec.DesiredState = v1alpha1.DesiredSuspended })
		firstPart(ctx, m.Stream, streaming)
		untilPhase(ctx, retrying, v1alpha1.PhaseRetrying)
		untilPhase(ctx, suspended, v1alpha1.PhaseSuspended)
		remove(ctx, p)
		setDesired(ctx, suspended, v1alpha1.DesiredRunning)
		for _, run := range []*v1alpha1.ChatRun{retrying, suspended} {
			got := untilReason(ctx, run, v1alpha1.ReasonProviderNotReady)
			Expect(got.Status.RetryingAt).To(BeNil())
		}
		By("what is under way not needing it any more")
		close(gate)
		Expect(textOf(untilPhase(ctx, streaming, v1alpha1.PhaseSucceeded))).To(Equal("the whole"))
		w.readyProvider(ctx)
		Expect(attemptOf(untilPhase(ctx, retrying, v1alpha1.PhaseSucceeded))).To(Equal(2))
		Expect(attemptOf(untilPhase(ctx, suspended, v1alpha1.PhaseSucceeded))).To(Equal(1))
	})

	It("sees a TTL that is set, raised and taken away after its end", func(ctx SpecContext) {
		w := newWorld(ctx, chattest.Always(chattest.Answer("an answer")))
		startManager(ctx)
		w.readyProvider(ctx)
		set := func(run *v1alpha1.ChatRun, seconds *int32) {
			GinkgoHelper()
			base := run.DeepCopy()
			run.Spec.TTLSecondsAfterFinished = seconds
			Expect(plane.Client.Patch(ctx, run, client.MergeFrom(base))).To(Succeed())
		}
		runs := map[string]*v1alpha1.ChatRun{}
		for name, ttl := range map[string]*int32{"set": nil, "raised": new(int32(8)), "taken away": new(int32(8)), "zero": new(int32(0))} {
			runs[name] = w.run(ctx, strings.ReplaceAll(name, " ", "-"), func(r *v1alpha1.ChatRun) { r.Spec.TTLSecondsAfterFinished = ttl })
		}
		gone := func(run *v1alpha1.ChatRun) func() bool {
			return func() bool {
				return apierrors.IsNotFound(plane.Client.Get(ctx, client.ObjectKeyFromObject(run), &v1alpha1.ChatRun{}))
			}
		}
		Eventually(ctx, gone(runs["zero"])).Should(BeTrue())
		for _, name := range []string{"set", "raised", "taken away"} {
			runs[name] = untilPhase(ctx, runs[name], v1alpha1.PhaseSucceeded)
		}
		set(runs["raised"], new(int32(3600)))
		set(runs["taken away"], nil)
		set(runs["set"], new(int32(5)))
		completed := runs["set"].Status.CompletionTime.Time
		Eventually(ctx, gone(runs["set"])).Should(BeTrue())
		Expect(time.Since(completed)).To(BeNumerically(">=", 5*time.Second))
		for _, name := range []string{"raised", "taken away"} {
			Eventually(ctx, func() time.Duration { return time.Since(runs[name].Status.CompletionTime.Time) }).Should(BeNumerically(">", 10*time.Second))
			Expect(gone(runs[name])()).To(BeFalse(), name)
		}
	})

	It("ends in one clear state when a run is deleted while it is being made", func(ctx SpecContext) {
		startManager(ctx)
		s := newStage(ctx)
		for i := range 20 {
			run := s.run(ctx, fmt.Sprintf("brief-%d", i))
			Expect(client.IgnoreNotFound(plane.Client.Delete(ctx, run))).To(Succeed())
		}
		s.become(ctx, atFirst)
		Eventually(ctx, func() bool {
			var list v1alpha1.ChatRunList
			err := plane.Client.List(ctx, &list, client.InNamespace(s.namespace))
			return err == nil && len(list.Items) == len(atFirst)+1
		}).Should(BeTrue())
		// holder and streaming alone are under way.
		Expect(s.fake.Ledger().WaitFor(ctx, func(l *chattest.Ledger) bool { return l.Live() == 2 })).To(Succeed())
	}, SpecTimeout(time.Minute))
})
