// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"chatrun.dev/operator/api/v1alpha1"
	"chatrun.dev/operator/internal/chatretry"
	"chatrun.dev/operator/internal/places"
	"chatrun.dev/operator/internal/streamer"
)

var (
	denied    = apierrors.NewForbidden(schema.GroupResource{Group: "chatrun.dev", Resource: "chatruns"}, "x", errors.New("by policy"))
	encrypted = apierrors.NewInternalError(errors.New("unable to transform key from storage"))
)

// behind puts f before the bench's API server.
func (b *bench) behind(f interceptor.Funcs) {
	c := interceptor.NewClient(b.api.(client.WithWatch), f)
	b.r.client, b.r.live = c, c
}

// unreadable answers reads of T with an error.
func unreadable[T client.Object](fault error) interceptor.Funcs {
	return interceptor.Funcs{Get: func(ctx context.Context, c client.WithWatch, k client.ObjectKey, o client.Object, opts ...client.GetOption) error {
		if _, ok := o.(T); ok {
			return fault
		}
		return c.Get(ctx, k, o, opts...)
	}}
}

// free says whether the bench's only place is.
func (b *bench) free() bool {
	next := places.Key{Namespace: "elsewhere", Name: "next"}
	got, _ := b.r.places.Ask(places.Claim{Key: next, UID: "next", Provider: "another"})
	b.r.places.Leave(next)
	return got == places.Granted
}

func withKey() *v1alpha1.ChatProvider {
	p := ready()
	p.Spec.Credentials = &v1alpha1.Credentials{SecretKeyRef: v1alpha1.SecretKeyReference{Name: "s", Key: "k"}}
	return p
}

// TestErrorsHoldNoPlace: a run whose start the API server answers with an error,
// and be it for ever, leaves its place to others; one whose count may stand, or
// that only read too early, keeps it.
func TestErrorsHoldNoPlace(t *testing.T) {
	for _, tc := range []struct {
		name    string
		run     []runOption
		through interceptor.Funcs
		fault   error // of the status write
		keeps   bool
	}{
		{"the count is refused", nil, interceptor.Funcs{}, denied, false},
		{"the key cannot be read", nil, unreadable[*corev1.Secret](encrypted), nil, false},
		{"the messages cannot be read", []runOption{fromConfigMap}, unreadable[*corev1.ConfigMap](encrypted), nil, false},
		{"the count may stand", nil, interceptor.Funcs{}, lostAnswer, true},
		{"what was read is old", nil, interceptor.Funcs{}, conflict, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			b := newBench(t, newRun(append(tc.run, untitled)...), withKey(),
				&corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "s"}, Data: map[string][]byte{"k": []byte("v")}})
			b.r.places = places.New(1, func(places.Key) {})
			b.behind(tc.through)
			for range 3 {
				b.fault = tc.fault
				if _, err := b.reconcile(t); err == nil && !errors.Is(tc.fault, conflict) {
					t.Fatal("no error")
				}
				if b.free() == tc.keeps {
					t.Fatalf("it keeps its place: %v", !tc.keeps)
				}
			}
		})
	}
}

// TestRefusedLabel: the label of a conversation, or of the run that is gone on
// from, is no reason not to ask.
func TestRefusedLabel(t *testing.T) {
	b := newBench(t, newRun(untitled, after("former")), ready(), former())
	b.behind(interceptor.Funcs{Patch: func(context.Context, client.WithWatch, client.Object, client.Patch, ...client.PatchOption) error {
		return denied
	}})
	b.must(t)
	<-b.caller.asked
	if run := b.run(t); !isStreaming(run) || run.Labels != nil {
		t.Errorf("%s %v", reasonOf(run), run.Labels)
	}
}

// TestMissingRights are told, and looked for again, in whatever of a run's
// question they show.
func TestMissingRights(t *testing.T) {
	parent, secret := keptElsewhere(newRun(named("former"), asks("first"), stored("Secret")), "Hush")
	for _, tc := range []struct {
		name    string
		objects []client.Object
		run     []runOption
		through interceptor.Funcs
		reason  string
	}{
		{"the parent's answer", []client.Object{parent, secret}, []runOption{after("former"), stored("Secret")},
			unreadable[*corev1.Secret](denied), v1alpha1.ReasonMessagesNotKept},
		{"the source", []client.Object{listed("[]")}, []runOption{fromConfigMap, stored("Secret")},
			unreadable[*corev1.ConfigMap](denied), v1alpha1.ReasonMessagesNotFound},
		{"the parent's ConfigMap", func() []client.Object {
			p, o := keptElsewhere(newRun(named("former"), asks("first")), strings.Repeat("y", 20_000))
			return []client.Object{p, o}
		}(), []runOption{after("former"), stored("Secret")}, unreadable[*corev1.ConfigMap](denied), v1alpha1.ReasonMessagesNotFound},
	} {
		b := newBench(t, append(tc.objects, newRun(append(tc.run, untitled)...), ready())...)
		b.behind(tc.through)
		after := b.must(t)
		if run := b.run(t); reasonOf(run) != tc.reason || !strings.Contains(messageOf(run), "may not be read") || after < minSecretDelay {
			t.Errorf("%s: %s: %s; again after %v", tc.name, reasonOf(run), messageOf(run), after)
		}
	}
}

// TestDigestTellsNothing of what stands in a Secret, however short that is; and a
// copy that is lost then cannot be made again.
func TestDigestTellsNothing(t *testing.T) {
	digests := map[string]bool{}
	for range 2 {
		parent, secret := keptElsewhere(newRun(named("former"), asks("What is the PIN?"), stored("Secret")), "4711")
		b := newBench(t, newRun(untitled, after("former"), stored("Secret")), ready(), parent, secret)
		b.must(t)
		if got := said(<-b.caller.asked); !strings.Contains(got, "4711") {
			t.Fatalf("asked %q", got)
		}
		digest := b.run(t).Status.MessagesDigest
		c := conversation{Messages: []v1alpha1.Message{{Role: v1alpha1.RoleUser, Content: "What is the PIN?"}, {Role: v1alpha1.RoleAssistant, Content: "4711"}}}
		if digests[digest] || digest == (material{former: c.encode()}).digest() || digest == "" {
			t.Errorf("digest %s of %v", digest, digests)
		}
		digests[digest] = true

		b.fails(t)
		b.must(t)
		<-b.caller.asked
		b.fails(t)
		b.change(t, &corev1.Secret{}, copyOfMessages, nil)
		b.must(t)
		if run := b.run(t); reasonOf(run) != v1alpha1.ReasonMessagesChanged || messageOf(run) != copyLostMessage {
			t.Errorf("%s: %s", reasonOf(run), messageOf(run))
		}
	}
}

// TestCopyStandsInForTheParent, if a manager made it and could not count the
// attempt.
func TestCopyStandsInForTheParent(t *testing.T) {
	b := newBench(t, newRun(untitled, after("former")), ready(), former())
	b.fault = denied
	if _, err := b.reconcile(t); err == nil {
		t.Fatal("no error")
	}
	if !b.get(t, &corev1.ConfigMap{}, copyOfMessages) {
		t.Fatal("no copy")
	}
	b.change(t, &v1alpha1.ChatRun{}, "former", nil)
	next := b.restarted(t)
	next.must(t)
	if got := said(<-next.caller.asked); got != "user:first|assistant:Hello|user:Hi" {
		t.Errorf("asked %q", got)
	}
}

// TestUnreadableCopyIsNoVerdict: an error in reading the copy is tried again,
// whatever became of the source.
func TestUnreadableCopyIsNoVerdict(t *testing.T) {
	run := newRun(untitled, fromConfigMap)
	s := &sheet{storage: v1alpha1.StorageConfigMap, name: copyOfMessages, data: material{own: `[{"role":"user","content":"first"}]`}.data()}
	b := newBench(t, run.DeepCopy(), ready(), s.object(run), listed("[]"))
	b.behind(interceptor.Funcs{Get: func(ctx context.Context, c client.WithWatch, k client.ObjectKey, o client.Object, opts ...client.GetOption) error {
		if k.Name == copyOfMessages {
			return throttled
		}
		return c.Get(ctx, k, o, opts...)
	}})
	if _, err := b.reconcile(t); !apierrors.IsTooManyRequests(err) {
		t.Errorf("error %v", err)
	}
	b.behind(interceptor.Funcs{})
	b.must(t)
	if got := said(<-b.caller.asked); got != "user:first" {
		t.Errorf("asked %q", got)
	}
}

// refuseMany closes the gate of the bench's provider, without a pause.
func (b *bench) refuseMany() {
	for i := range 20 {
		k := places.Key{Namespace: "others", Name: fmt.Sprint(i)}
		b.r.places.Ask(places.Claim{Key: k, UID: k.Name, Model: "m"})
		b.r.places.Ended(k, k.Name, places.Result{Refused: true, Until: time.Now()})
	}
}

// TestRefusalKeepsItsPause: others leave a provider alone for as long as the run
// that was refused waits, or would: also when the refusal is first met with an
// old status, comes within a look at the run, or ends the run.
func TestRefusalKeepsItsPause(t *testing.T) {
	for _, tc := range []struct {
		name    string
		run     []runOption
		failure *chatretry.Failure
		meets   func(t *testing.T, b *bench, answer func())
	}{
		{"as a rule", nil, overloaded, func(_ *testing.T, _ *bench, answer func()) { answer() }},
		{"the last attempt", []runOption{maxAttempts(1)}, overloaded, func(_ *testing.T, _ *bench, answer func()) { answer() }},
		{"a hint of a day", nil, hinted(24 * time.Hour), func(_ *testing.T, _ *bench, answer func()) { answer() }},
		{"an old status", nil, overloaded, func(t *testing.T, b *bench, answer func()) {
			old := newRun(untitled)
			b.get(t, old, "hello")
			old.Status = v1alpha1.ChatRunStatus{Phase: v1alpha1.PhasePending}
			answer()
			now := b.r.client
			b.r.client = seeing(b.api, func(run *v1alpha1.ChatRun) error {
				old.DeepCopyInto(run)
				return nil
			})
			b.must(t)
			b.r.client = now
		}},
		{"within a look", nil, overloaded, func(t *testing.T, b *bench, answer func()) {
			run := b.run(t)
			run.Generation++
			if err := b.api.Update(t.Context(), run); err != nil {
				t.Fatal(err)
			}
			now := b.r.client
			b.behind(interceptor.Funcs{SubResourcePatch: func(ctx context.Context, c client.Client, sub string, o client.Object, p client.Patch, opts ...client.SubResourcePatchOption) error {
				answer()
				return c.SubResource(sub).Patch(ctx, o, p, opts...)
			}})
			b.must(t)
			b.r.client, b.r.live = now, b.api
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBench(t, newRun(append(tc.run, untitled)...), newRun(untitled, named("later")), ready())
				b.clock.SetTime(time.Now())
				b.must(t)
				<-b.caller.asked
				b.refuseMany()
				tc.meets(t, b, func() {
					b.caller.answer <- tc.failure
					<-b.nudged
				})
				b.must(t)
				b.name = "later"
				b.must(t)
				<-time.After(queuedGrace)
				b.must(t)
				if run := b.run(t); messageOf(run) != providerRefusesMessage || len(b.caller.asked) != 0 {
					t.Errorf("the next is %s: %s", reasonOf(run), messageOf(run))
				}
			})
		})
	}
}

// TestEndsAreNotPutOff by an API server that refuses to keep what they cut: they
// say that they could not keep it.
func TestEndsAreNotPutOff(t *testing.T) {
	long := strings.Repeat("z", 20_000)
	for _, tc := range []struct {
		name     string
		d        decision
		stopping bool
		reason   string
		message  string
	}{
		{"cancel", decision{verb: cancel, outcome: stopped(1, streamer.ErrStopped)}, false, v1alpha1.ReasonCancelled, "Cancelled on request. The text so far could not be kept whole"},
		{"deadline", decision{verb: fail, reason: v1alpha1.ReasonDeadlineExceeded, message: "Too long.", outcome: stopped(1, streamer.ErrDeadline)}, false,
			v1alpha1.ReasonDeadlineExceeded, "Too long. The text so far could not be kept whole"},
		{"success at a shutdown", decision{verb: succeed, outcome: good(1)}, true, v1alpha1.ReasonOutputRefused, "could not be written"},
	} {
		b := newBench(t, newRun(streaming(1), untitled), ready())
		b.createFault = noRoom
		tc.d.outcome.Text, tc.d.outcome.Bytes = long, int64(len(long))
		if err := b.r.record(t.Context(), facts{run: b.run(t), stopping: tc.stopping}, tc.d); err != nil {
			t.Errorf("%s: %v", tc.name, err)
		}
		if run := b.run(t); reasonOf(run) != tc.reason || !strings.Contains(messageOf(run), tc.message) || !strings.HasPrefix(long, run.Status.Output.Text) {
			t.Errorf("%s: %s: %s", tc.name, reasonOf(run), messageOf(run))
		}
	}
}

// TestTakenBack: what ended an attempt, and is asked no more, is told as what it
// was.
func TestTakenBack(t *testing.T) {
	for cause, want := range map[error]string{
		streamer.ErrSuspended: "a suspension that was taken back", streamer.ErrDeadline: "a deadline that was raised",
		streamer.ErrOwnershipLost: "the ownership", streamer.ErrShutdown: "the manager",
	} {
		for limit, verb := range map[int32]verb{1: fail, 2: retry} {
			d := decide(facts{run: newRun(streaming(1), maxAttempts(limit)), pool: pool(1, stopped(1, cause))}, t0.Add(time.Second))
			if d.verb != verb || !strings.Contains(d.failure.Message, want) {
				t.Errorf("%v: %s: %s", cause, short(d), d.failure.Message)
			}
		}
	}
}

// TestResumedClockRuns, also while nobody knows yet what the run waits for.
func TestResumedClockRuns(t *testing.T) {
	run := newRun(streaming(1), suspendedAt(t0.Add(time.Second)), activeDeadline(60))
	f := facts{run: run, pool: settled(1), wait: &waitReason{after: time.Second, queued: true}}
	now := t0.Add(time.Hour)
	d := decide(f, now)
	run.Status = nextStatus(run, d, actor{worker: "me"}, now)
	if run.Status.Phase != v1alpha1.PhasePending || reasonOf(run) != v1alpha1.ReasonPending || messageOf(run) != resumedMessage {
		t.Errorf("%s: %s %s", short(d), reasonOf(run), messageOf(run))
	}
	if at, _ := deadline(run, now.Add(time.Hour)); !at.Equal(now.Add(59 * time.Second)) {
		t.Errorf("its deadline is %v after the resume", at.Sub(now))
	}
	settles(t, f, decide(f, now), now)
}

// TestQueuedMessageStays as long as a run is queued: what is full changes by the
// moment.
func TestQueuedMessageStays(t *testing.T) {
	run := newRun()
	for _, message := range []string{managerFullMessage, providerRefusesMessage} {
		f := facts{run: run, wait: queued(message)}
		run.Status = nextStatus(run, decide(f, t0), actor{worker: "me"}, t0)
	}
	if reasonOf(run) != v1alpha1.ReasonQueued || messageOf(run) != managerFullMessage {
		t.Errorf("%s: %s", reasonOf(run), messageOf(run))
	}
}
