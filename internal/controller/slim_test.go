// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"context"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"chatrun.dev/operator/api/v1alpha1"
)

func TestSlim(t *testing.T) {
	long := strings.Repeat("x", maxCachedQuestion)
	for _, tc := range []struct {
		name           string
		run            *v1alpha1.ChatRun
		question, text bool // whether they stay
	}{
		{"short", newRun(), true, true},
		{"long prompt", newRun(asks(long + "x")), false, true},
		{"just short enough", newRun(asks(long)), true, true},
		{"long messages", newRun(asks(""), func(r *v1alpha1.ChatRun) { r.Spec.Messages = []v1alpha1.Message{{Content: long}, {Content: "x"}} }), false, true},
		{"long system", newRun(func(r *v1alpha1.ChatRun) { r.Spec.System = long }), false, true},
		{"finished", newRun(ended(succeed, "")), false, false},
		{"failed", newRun(ended(fail, "InvalidRequest")), false, true},
	} {
		tc.run.ManagedFields = []metav1.ManagedFieldsEntry{{Manager: "x"}}
		before := tc.run.DeepCopy()
		for range 2 { // the cache may do it again
			out, err := slim(tc.run)
			if err != nil || out != any(tc.run) {
				t.Fatal(err)
			}
		}
		s := &tc.run.Spec
		if has := s.Prompt != "" || len(s.Messages) > 0; has != tc.question {
			t.Errorf("%s: its question is there: %v", tc.name, has)
		}
		if has := tc.run.Status.Output == nil || tc.run.Status.Output.Text != ""; has != tc.text {
			t.Errorf("%s: its text is there: %v", tc.name, has)
		}
		if tc.run.ManagedFields != nil || tc.run.UID != before.UID || reasonOf(tc.run) != reasonOf(before) || s.ProviderRef != before.Spec.ProviderRef {
			t.Errorf("%s: %+v", tc.name, tc.run)
		}
	}
	if out, err := slim("something else"); out != "something else" || err != nil {
		t.Errorf("%v, %v", out, err)
	}
}

// TestLongQuestionIsReadLive: what the cache lacks is read when it is asked.
func TestLongQuestionIsReadLive(t *testing.T) {
	prompt := strings.Repeat("x", 2*maxCachedQuestion)
	b := newBench(t, newRun(untitled, asks(prompt)), ready())
	b.r.client = slimmed{b.api}
	b.must(t)
	if got := said(<-b.caller.asked); got != "user:"+prompt {
		t.Errorf("asked %d bytes", len(got))
	}
	if run := b.run(t); run.Spec.Prompt != prompt {
		t.Error("the object lost its prompt")
	}
}

// slimmed reads as the cache does.
type slimmed struct{ client.Client }

func (s slimmed) Get(ctx context.Context, key client.ObjectKey, o client.Object, opts ...client.GetOption) error {
	if err := s.Client.Get(ctx, key, o, opts...); err != nil {
		return err
	}
	_, err := slim(o)
	return err
}
