// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"context"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"chatrun.dev/operator/api/v1alpha1"
	"chatrun.dev/operator/internal/provider"
)

var (
	noRoom = apierrors.NewForbidden(schema.GroupResource{Resource: "configmaps"}, "x", context.DeadlineExceeded)
	tooBig = apierrors.NewRequestEntityTooLargeError("too big")
)

func stored(s v1alpha1.OutputStorage) runOption {
	return func(run *v1alpha1.ChatRun) { run.Spec.Output = &v1alpha1.OutputSpec{Storage: s} }
}

// answered is a bench whose run has an answer lying in the pool.
func answered(t *testing.T, text string, objects []client.Object, options ...runOption) *bench {
	t.Helper()
	b := newBench(t, append(objects, newRun(append(options, untitled)...), ready())...)
	b.caller.text = text
	if _, err := b.reconcile(t); err != nil {
		t.Fatal(err)
	}
	<-b.caller.asked
	b.caller.answer <- nil
	<-b.nudged
	return b
}

func (b *bench) get(t *testing.T, o client.Object, name string) bool {
	t.Helper()
	err := b.api.Get(t.Context(), client.ObjectKey{Namespace: "ns", Name: name}, o)
	if client.IgnoreNotFound(err) != nil {
		t.Fatal(err)
	}
	return err == nil
}

// inflating are the characters that JSON writes longest.
const inflating = "\x00\x1f\u2028<>&\"\\é𝄞"

func TestAnswerIsKept(t *testing.T) {
	long := strings.Repeat(inflating, 2000)
	huge := strings.Repeat(inflating, 60_000)
	whole, cutAt := int64(len(long)), int64(len(cut(huge, v1alpha1.MaxStoredBytes)))
	for _, tc := range []struct {
		name              string
		storage           v1alpha1.OutputStorage
		text              string
		inline, truncated bool
		stored            int64 // -1 if nowhere
		message           string
	}{
		{"short", "ConfigMap", "Hello", true, false, -1, "in status.output"},
		{"long", "ConfigMap", long, true, true, whole, "in ConfigMap"},
		{"huge", "ConfigMap", huge, true, true, cutAt, "cut"},
		{"short secret", "Secret", "Hello", false, true, 5, "in Secret"},
		{"huge secret", "Secret", huge, false, true, cutAt, "cut"},
		{"none", "None", long, false, true, -1, "not kept"},
		{"by default", "", long, true, true, whole, "in ConfigMap"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			b := answered(t, tc.text, nil, stored(tc.storage))
			if _, err := b.reconcile(t); err != nil {
				t.Fatal(err)
			}
			run := b.run(t)
			out := run.Status.Output
			if run.Status.Phase != v1alpha1.PhaseSucceeded || *out.Bytes != int64(len(tc.text)) ||
				valueOr(out.Truncated, false) != tc.truncated || (out.Text != "") != tc.inline ||
				!strings.HasPrefix(tc.text, out.Text) || len(out.Text) > v1alpha1.MaxInlineOutputBytes || !utf8.ValidString(out.Text) {
				t.Errorf("phase %s, %d bytes, truncated %v, %d inline", run.Status.Phase, *out.Bytes, out.Truncated, len(out.Text))
			}
			if !strings.Contains(messageOf(run), tc.message) {
				t.Errorf("message %q", messageOf(run))
			}
			if valueOr(out.StoredBytes, -1) != tc.stored {
				t.Fatalf("%d bytes stored, want %d", valueOr(out.StoredBytes, -1), tc.stored)
			}
			b.checkStored(t, run, tc.text)
		})
	}
}

func (b *bench) checkStored(t *testing.T, run *v1alpha1.ChatRun, text string) {
	t.Helper()
	out := run.Status.Output
	var kept string
	var meta metav1.ObjectMeta
	var immutable *bool
	switch {
	case out.ConfigMapName != "":
		m := &corev1.ConfigMap{}
		b.get(t, m, out.ConfigMapName)
		kept, meta, immutable = m.Data[v1alpha1.StoredText], m.ObjectMeta, m.Immutable
	case out.SecretName != "":
		m := &corev1.Secret{}
		b.get(t, m, out.SecretName)
		kept, meta, immutable = string(m.Data[v1alpha1.StoredText]), m.ObjectMeta, m.Immutable
	default:
		return
	}
	if int64(len(kept)) != *out.StoredBytes || !strings.HasPrefix(text, kept) || len(kept) > v1alpha1.MaxStoredBytes || !utf8.ValidString(kept) {
		t.Errorf("%d bytes stand there, status tells of %d", len(kept), *out.StoredBytes)
	}
	if !metav1.IsControlledBy(&meta, run) || !valueOr(immutable, false) {
		t.Errorf("owners %v, immutable %v", meta.OwnerReferences, immutable)
	}
}

// TestAnswerStandsBeforeTheStatus kills the manager between the two writes: the
// next one finishes the run from the object, and asks nothing.
func TestAnswerStandsBeforeTheStatus(t *testing.T) {
	text := strings.Repeat(inflating, 2000)
	for _, storage := range []v1alpha1.OutputStorage{v1alpha1.StorageConfigMap, v1alpha1.StorageSecret} {
		t.Run(string(storage), func(t *testing.T) {
			b := answered(t, text, nil, stored(storage))
			b.fault = broken
			if _, err := b.reconcile(t); err == nil {
				t.Fatal("the status write did not fail")
			}
			next := b.restarted(t)
			if _, err := next.reconcile(t); err != nil {
				t.Fatal(err)
			}
			run := next.run(t)
			s := run.Status
			if s.Phase != v1alpha1.PhaseSucceeded || *s.Output.Bytes != int64(len(text)) || s.FinishReason != v1alpha1.FinishStop ||
				s.Usage == nil || *s.Usage.OutputTokens != 2 || s.FirstTokenTime == nil || attemptOf(run) != 1 {
				t.Errorf("finished as %+v", s)
			}
			next.checkStored(t, run, text)
			if len(next.caller.asked) != 0 {
				t.Error("asked again")
			}
		})
	}
}

// TestCutAnswerStandsBeforeTheStatus does the same for one that a cancel cut.
func TestCutAnswerStandsBeforeTheStatus(t *testing.T) {
	run := newRun(streaming(1), desired(v1alpha1.DesiredCancelled))
	d := decision{verb: cancel, outcome: stopped(1, nil)}
	d.outcome.Text = strings.Repeat("x", 20_000)
	d.outcome.Bytes = 20_000
	b := newBench(t, run, ready(), answerSheet(run, d).object(run))
	if _, err := b.reconcile(t); err != nil {
		t.Fatal(err)
	}
	s := b.run(t).Status
	if s.Phase != v1alpha1.PhaseCancelled || s.FinishReason != v1alpha1.FinishCancelled || *s.Output.Bytes != 20_000 || *s.Output.StoredBytes != 20_000 {
		t.Errorf("%+v", s)
	}
}

// TestForeignOutput: what another made under the name is neither taken for the
// answer nor written over.
func TestForeignOutput(t *testing.T) {
	text := strings.Repeat("x", 20_000)
	foreign := func() *corev1.ConfigMap {
		return &corev1.ConfigMap{
			ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "chatrun-uid-1-1", Annotations: map[string]string{
				annotationOutcome: `{"attempt":1,"finishReason":"Stop","bytes":3}`,
			}},
			Data: map[string]string{v1alpha1.StoredText: "bad"},
		}
	}
	t.Run("at the write", func(t *testing.T) {
		b := answered(t, text, []client.Object{foreign()})
		if _, err := b.reconcile(t); err != nil {
			t.Fatal(err)
		}
		run, m := b.run(t), &corev1.ConfigMap{}
		if run.Status.Phase != v1alpha1.PhaseFailed || reasonOf(run) != v1alpha1.ReasonOutputRefused ||
			run.Status.Output.ConfigMapName != "" || len(run.Status.Output.Text) != v1alpha1.MaxInlineOutputBytes {
			t.Errorf("%s %s %+v", run.Status.Phase, messageOf(run), run.Status.Output.ConfigMapName)
		}
		if b.get(t, m, "chatrun-uid-1-1"); m.Data[v1alpha1.StoredText] != "bad" {
			t.Error("it was written over")
		}
	})
	t.Run("after a restart", func(t *testing.T) {
		b := newBench(t, newRun(untitled, streaming(1)), ready(), foreign())
		if _, err := b.reconcile(t); err != nil {
			t.Fatal(err)
		}
		if run := b.run(t); run.Status.Phase != v1alpha1.PhaseRetrying || run.Status.LastErrorReason != "WorkerLost" {
			t.Errorf("%s %s", run.Status.Phase, run.Status.LastErrorReason)
		}
	})
}

// TestOutputRefused: a refusal that may pass is tried again for a while, one
// that will not ends the run; what fits into the status stays in any case.
func TestOutputRefused(t *testing.T) {
	text := strings.Repeat("x", 20_000)
	for _, tc := range []struct {
		name    string
		fault   error
		patient bool
	}{{"quota", noRoom, true}, {"too large", tooBig, false}} {
		t.Run(tc.name, func(t *testing.T) {
			b := answered(t, text, nil)
			b.createFault = tc.fault
			var waited time.Duration
			for looks := 0; ; looks++ {
				result, err := b.reconcile(t)
				if err != nil || looks > 20 {
					t.Fatalf("after %d looks: %v", looks, err)
				}
				if isFinished(b.run(t)) {
					break
				}
				waited += result.RequeueAfter
				b.clock.SetTime(t0.Add(waited))
			}
			run := b.run(t)
			if reasonOf(run) != v1alpha1.ReasonOutputRefused || len(run.Status.Output.Text) != v1alpha1.MaxInlineOutputBytes ||
				run.Status.FinishReason != v1alpha1.FinishStop || strings.Contains(messageOf(run), "xxx") {
				t.Errorf("%s: %s", reasonOf(run), messageOf(run))
			}
			if patient := waited >= refusedPatience; patient != tc.patient {
				t.Errorf("gave up after %v", waited)
			}
		})
	}
	t.Run("room again", func(t *testing.T) {
		b := answered(t, text, nil)
		b.createFault = noRoom
		if _, err := b.reconcile(t); err != nil {
			t.Fatal(err)
		}
		b.createFault = nil
		if _, err := b.reconcile(t); err != nil {
			t.Fatal(err)
		}
		if run := b.run(t); run.Status.Phase != v1alpha1.PhaseSucceeded || run.Status.Output.ConfigMapName == "" {
			t.Errorf("%s: %s", run.Status.Phase, messageOf(run))
		}
	})
}

// TestCreateOfUnknownResult: the answer that stands is ours, and is taken for
// what it is.
func TestCreateOfUnknownResult(t *testing.T) {
	b := answered(t, strings.Repeat("x", 20_000), nil)
	b.createFault, b.createStands = lostAnswer, true
	if _, err := b.reconcile(t); err == nil {
		t.Fatal("the write did not fail")
	}
	b.createFault = nil
	if _, err := b.reconcile(t); err != nil {
		t.Fatal(err)
	}
	if run := b.run(t); run.Status.Phase != v1alpha1.PhaseSucceeded || run.Status.Output.ConfigMapName == "" {
		t.Errorf("%s: %s", run.Status.Phase, messageOf(run))
	}
}

func TestFinishedFromNothing(t *testing.T) {
	run := newRun(streaming(1))
	for name, note := range map[string]string{
		"no note": "", "garbage": "{", "another attempt": `{"attempt":2,"finishReason":"Stop"}`, "no reason": `{"attempt":1}`,
	} {
		s := answerSheet(run, decision{verb: succeed, outcome: good(1)})
		s.outcome = note
		b := newBench(t, run, s.object(run))
		if o, k, err := b.r.standing(t.Context(), run); o != nil || k != nil || err != nil {
			t.Errorf("%s: %+v %+v %v", name, o, k, err)
		}
	}
	s := answerSheet(run, decision{verb: succeed, outcome: good(1)})
	b := newBench(t, run, s.object(run))
	o, k, err := b.r.standing(t.Context(), run)
	if err != nil || o == nil || o.Text != "Hello" || o.FinishReason != provider.FinishStop || o.Usage != good(1).Usage ||
		!o.FirstPart.Equal(good(1).FirstPart) || k.bytes != 5 {
		t.Errorf("%+v %+v %v", o, k, err)
	}
}
