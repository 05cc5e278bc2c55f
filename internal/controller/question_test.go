// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"chatrun.dev/operator/api/v1alpha1"
	"chatrun.dev/operator/internal/provider"
)

// said is what a model was asked, in short.
func said(ask provider.Request) string {
	var out []string
	for _, m := range ask.Messages {
		out = append(out, string(m.Role)+":"+m.Content)
	}
	return strings.Join(out, "|")
}

func fromConfigMap(run *v1alpha1.ChatRun) {
	run.Spec.Prompt = ""
	run.Spec.MessagesFrom = &v1alpha1.MessagesSource{ConfigMapKeyRef: &v1alpha1.ConfigMapKeyReference{Name: "long", Key: "m.json"}}
}

func listed(raw string) *corev1.ConfigMap {
	return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "long"}, Data: map[string]string{"m.json": raw}}
}

// must looks at the run once, and returns when to look again.
func (b *bench) must(t *testing.T) time.Duration {
	t.Helper()
	result, err := b.reconcile(t)
	if err != nil {
		t.Fatal(err)
	}
	return result.RequeueAfter
}

// fails ends the attempt under way with a transient failure, and looks.
func (b *bench) fails(t *testing.T) {
	t.Helper()
	b.caller.answer <- overloaded
	<-b.nudged
	b.must(t)
	b.clock.SetTime(b.clock.Now().Add(time.Hour))
}

func (b *bench) change(t *testing.T, o client.Object, name string, by func()) {
	t.Helper()
	if !b.get(t, o, name) {
		t.Fatalf("%s is not there", name)
	}
	if by == nil {
		if err := b.api.Delete(t.Context(), o); err != nil {
			t.Fatal(err)
		}
		return
	}
	by()
	if err := b.api.Update(t.Context(), o); err != nil {
		t.Fatal(err)
	}
}

const copyOfMessages = "chatrun-uid-1-messages"

func TestMessagesAreAskedAlike(t *testing.T) {
	asked := `[{"role":"user","content":"as it was"}]`
	for _, tc := range []struct {
		name    string
		between func(t *testing.T, b *bench)
		reason  string // of the failure; empty if the retry asks the same
	}{
		{"nothing happens", func(*testing.T, *bench) {}, ""},
		{"the source changes", func(t *testing.T, b *bench) {
			m := &corev1.ConfigMap{}
			b.change(t, m, "long", func() { m.Data["m.json"] = "[]" })
		}, ""},
		{"the source goes", func(t *testing.T, b *bench) { b.change(t, &corev1.ConfigMap{}, "long", nil) }, ""},
		{"the copy goes", func(t *testing.T, b *bench) { b.change(t, &corev1.ConfigMap{}, copyOfMessages, nil) }, ""},
		{"both go", func(t *testing.T, b *bench) {
			b.change(t, &corev1.ConfigMap{}, "long", nil)
			b.change(t, &corev1.ConfigMap{}, copyOfMessages, nil)
		}, "MessagesChanged"},
		{"the copy goes, the source changes", func(t *testing.T, b *bench) {
			b.change(t, &corev1.ConfigMap{}, copyOfMessages, nil)
			m := &corev1.ConfigMap{}
			b.change(t, m, "long", func() { m.Data["m.json"] = `[{"role":"user","content":"another"}]` })
		}, "MessagesChanged"},
		{"the copy is replaced", func(t *testing.T, b *bench) {
			m := &corev1.ConfigMap{}
			b.change(t, m, copyOfMessages, func() { m.Data[ownKey] = `[{"role":"user","content":"another"}]` })
		}, "MessagesChanged"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			b := newBench(t, newRun(untitled, fromConfigMap), ready(), listed(asked))
			b.must(t)
			if got := said(<-b.caller.asked); got != "user:as it was" {
				t.Fatalf("asked %q", got)
			}
			if run := b.run(t); run.Status.MessagesDigest != (material{own: asked}).digest() {
				t.Errorf("digest %q", run.Status.MessagesDigest)
			}
			b.fails(t)
			tc.between(t, b)
			b.must(t)
			run := b.run(t)
			if tc.reason != "" {
				if run.Status.Phase != v1alpha1.PhaseFailed || reasonOf(run) != tc.reason || attemptOf(run) != 1 {
					t.Errorf("%s: %s", reasonOf(run), messageOf(run))
				}
				return
			}
			if got := said(<-b.caller.asked); got != "user:as it was" || attemptOf(run) != 2 {
				t.Errorf("attempt %d asked %q", attemptOf(run), got)
			}
		})
	}
}

func TestMessagesSource(t *testing.T) {
	for _, tc := range []struct {
		name   string
		source client.Object
		phase  v1alpha1.Phase
		reason string
	}{
		{"missing", nil, "Pending", "MessagesNotFound"},
		{"no such key", &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "long"}}, "Pending", "MessagesNotFound"},
		{"binary", &corev1.ConfigMap{
			ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "long"},
			BinaryData: map[string][]byte{"m.json": []byte("[{\"role\":\"user\",\"content\":\"\xff\"}]")},
		}, "Failed", "MessagesInvalid"},
		{"no messages", listed("secret"), "Failed", "MessagesInvalid"},
		{"right", listed(`[{"role":"user","content":"Hi"}]`), "Streaming", "Streaming"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			objects := []client.Object{newRun(untitled, fromConfigMap), ready()}
			if tc.source != nil {
				objects = append(objects, tc.source)
			}
			b := newBench(t, objects...)
			after := b.must(t)
			run := b.run(t)
			if run.Status.Phase != tc.phase || reasonOf(run) != tc.reason || strings.Contains(messageOf(run), "secret") {
				t.Errorf("%s, %s: %s", run.Status.Phase, reasonOf(run), messageOf(run))
			}
			if tc.phase == v1alpha1.PhasePending {
				if after != 10*time.Second { // the run is as old
					t.Errorf("looks again after %v", after)
				}
				writes := b.writes
				b.clock.SetTime(t0.Add(time.Hour))
				if again := b.must(t); again != maxSecretDelay || b.writes != writes {
					t.Errorf("looks again after %v, and wrote %d times", again, b.writes-writes)
				}
			}
		})
	}
}

// TestCopyIsThere: a manager before us made the copy, and was killed before it
// counted the attempt. What it read is what is asked.
func TestCopyIsThere(t *testing.T) {
	run := newRun(untitled, fromConfigMap)
	s := &sheet{storage: v1alpha1.StorageConfigMap, name: copyOfMessages, data: material{own: `[{"role":"user","content":"first"}]`}.data()}
	for name, objects := range map[string][]client.Object{"source changed": {listed(`[{"role":"user","content":"second"}]`)}, "source gone": nil} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, append(objects, run.DeepCopy(), ready(), s.object(run))...)
			b.must(t)
			if got := said(<-b.caller.asked); got != "user:first" {
				t.Errorf("asked %q", got)
			}
		})
	}
	t.Run("but it is another's", func(t *testing.T) {
		foreign := s.object(newRun(func(r *v1alpha1.ChatRun) { r.UID = "uid-9" }))
		foreign.SetName(copyOfMessages)
		b := newBench(t, run.DeepCopy(), ready(), listed(`[{"role":"user","content":"second"}]`), foreign)
		b.must(t)
		if run := b.run(t); run.Status.Phase != v1alpha1.PhaseFailed || reasonOf(run) != v1alpha1.ReasonMessagesNotKept {
			t.Errorf("%s: %s", reasonOf(run), messageOf(run))
		}
	})
	t.Run("a quota forbids it", func(t *testing.T) {
		b := newBench(t, run.DeepCopy(), ready(), listed(`[{"role":"user","content":"Hi"}]`))
		b.createFault = noRoom
		if after := b.must(t); after == 0 {
			t.Error("never looks again")
		}
		if run := b.run(t); run.Status.Phase != v1alpha1.PhasePending || reasonOf(run) != v1alpha1.ReasonMessagesNotKept || attemptOf(run) != 0 {
			t.Errorf("%s: %s", reasonOf(run), messageOf(run))
		}
		b.createFault = nil
		b.must(t)
		if got := said(<-b.caller.asked); got != "user:Hi" {
			t.Errorf("asked %q", got)
		}
	})
}

// TestSecretRunCopiesToASecret: the copy is no more readable than the answer.
func TestSecretRunCopiesToASecret(t *testing.T) {
	for _, storage := range []v1alpha1.OutputStorage{v1alpha1.StorageSecret, v1alpha1.StorageNone} {
		b := newBench(t, newRun(untitled, fromConfigMap, stored(storage)), ready(), listed(`[{"role":"user","content":"Hi"}]`))
		b.must(t)
		<-b.caller.asked
		if !b.get(t, &corev1.Secret{}, copyOfMessages) || b.get(t, &corev1.ConfigMap{}, copyOfMessages) {
			t.Errorf("%s: the copy is not in a Secret alone", storage)
		}
	}
}
