// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"chatrun.dev/operator/api/v1alpha1"
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

func withKey() *v1alpha1.ChatProvider {
	p := ready()
	p.Spec.Credentials = &v1alpha1.Credentials{SecretKeyRef: v1alpha1.SecretKeyReference{Name: "s", Key: "k"}}
	return p
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

// TestCancelAndAnswerAtOnce: where an answer and a cancel meet, and the answer is not
// let be kept, nobody waits for it.
func TestCancelAndAnswerAtOnce(t *testing.T) {
	for name, change := range map[string]func(*v1alpha1.ChatRun){
		"cancel":   desired(v1alpha1.DesiredCancelled),
		"deadline": activeDeadline(1),
	} {
		b := answered(t, strings.Repeat("z", 20_000), nil)
		b.createFault = noRoom
		run := b.run(t)
		change(run)
		if err := b.api.Update(t.Context(), run); err != nil {
			t.Fatal(err)
		}
		b.clock.SetTime(t0.Add(time.Minute))
		b.must(t)
		if run := b.run(t); reasonOf(run) != v1alpha1.ReasonOutputRefused {
			t.Errorf("%s: %s", name, reasonOf(run))
		}
	}
}

// TestDeniedSourceIsNoVerdict: whether the source of a lost copy changed is not known
// while it may not be read.
func TestDeniedSourceIsNoVerdict(t *testing.T) {
	b := newBench(t, newRun(untitled, fromConfigMap), ready(), listed(`[{"role":"user","content":"first"}]`))
	b.must(t)
	<-b.caller.asked
	b.fails(t)
	b.change(t, &corev1.ConfigMap{}, copyOfMessages, nil)
	b.behind(interceptor.Funcs{Get: func(ctx context.Context, c client.WithWatch, k client.ObjectKey, o client.Object, opts ...client.GetOption) error {
		if _, ok := o.(*corev1.ConfigMap); ok && k.Name != copyOfMessages {
			return denied
		}
		return c.Get(ctx, k, o, opts...)
	}})
	b.must(t)
	if run := b.run(t); reasonOf(run) != v1alpha1.ReasonMessagesNotFound || isFinished(run) {
		t.Errorf("%s: %s", reasonOf(run), messageOf(run))
	}
	b.behind(interceptor.Funcs{})
	b.must(t)
	if got := said(<-b.caller.asked); got != "user:first" {
		t.Errorf("asked %q", got)
	}
}

// TestKeyBeforeCopy: nothing is copied for a run that has no key to ask with.
func TestKeyBeforeCopy(t *testing.T) {
	b := newBench(t, newRun(untitled, after("former")), withKey(), former())
	b.must(t)
	if run := b.run(t); reasonOf(run) != v1alpha1.ReasonProviderNotReady || b.get(t, &corev1.ConfigMap{}, copyOfMessages) {
		t.Errorf("%s, or it was copied", reasonOf(run))
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
