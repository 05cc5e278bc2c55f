// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"chatrun.dev/operator/api/v1alpha1"
)

// named makes a run another one.
func named(name string) runOption {
	return func(run *v1alpha1.ChatRun) { run.Name, run.UID = name, types.UID("uid-of-"+name) }
}

func after(parent string) runOption {
	return func(run *v1alpha1.ChatRun) { run.Spec.ContinueFrom = &v1alpha1.RunReference{Name: parent} }
}

func asks(prompt string) runOption {
	return func(run *v1alpha1.ChatRun) { run.Spec.Prompt = prompt }
}

func labelled(conversation string) runOption {
	return func(run *v1alpha1.ChatRun) {
		run.Labels = map[string]string{v1alpha1.LabelConversation: conversation}
	}
}

// former is a run that succeeded, with "Hello" as its answer.
func former(options ...runOption) *v1alpha1.ChatRun {
	return newRun(append([]runOption{named("former"), asks("first"), ended(succeed, "")}, options...)...)
}

// keptElsewhere is the run with its answer in an object, and that object.
func keptElsewhere(run *v1alpha1.ChatRun, text string) (*v1alpha1.ChatRun, client.Object) {
	streaming(1)(run)
	d := decision{verb: succeed, outcome: good(1)}
	d.outcome.Text, d.outcome.Bytes = text, int64(len(text))
	s := answerSheet(run, d)
	d.kept = &kept{storage: s.storage, name: s.name, bytes: int64(len(s.data[v1alpha1.StoredText]))}
	run.Status = nextStatus(run, d, actor{worker: "me"}, t0)
	return run, s.object(run)
}

func TestGoingOn(t *testing.T) {
	long := strings.Repeat("y", 20_000)
	parent, object := keptElsewhere(newRun(named("former"), asks("first")), long)
	secretParent, secret := keptElsewhere(newRun(named("former"), asks("first"), stored("Secret")), "Hush")
	cutParent, cutObject := keptElsewhere(newRun(named("former"), asks("first")), strings.Repeat("y", 1<<20))
	system := func(r *v1alpha1.ChatRun) { r.Spec.System = "old" }
	for _, tc := range []struct {
		name    string
		child   *v1alpha1.ChatRun
		objects []client.Object
		asked   string // if it starts
		reason  string // if it does not
		phase   v1alpha1.Phase
	}{
		{"short answer", newRun(), []client.Object{former(system)}, "system:old|user:first|assistant:Hello|user:Hi", "", ""},
		{"another system", newRun(func(r *v1alpha1.ChatRun) { r.Spec.System = "new" }), []client.Object{former(system)}, "system:new|user:first|assistant:Hello|user:Hi", "", ""},
		{"long answer", newRun(), []client.Object{parent, object}, "user:first|assistant:" + long + "|user:Hi", "", ""},
		{"from a Secret to a Secret", newRun(stored("Secret")), []client.Object{secretParent, secret}, "user:first|assistant:Hush|user:Hi", "", ""},
		{"from a Secret to nowhere", newRun(stored("None")), []client.Object{secretParent, secret}, "user:first|assistant:Hush|user:Hi", "", ""},
		{"from a Secret to a ConfigMap", newRun(), []client.Object{secretParent, secret}, "", "ParentUnusable", "Failed"},
		{"answer deleted", newRun(), []client.Object{parent}, "", "ParentUnusable", "Failed"},
		{"answer cut", newRun(), []client.Object{cutParent, cutObject}, "", "ParentUnusable", "Failed"},
		{"answer not kept", newRun(), []client.Object{former(stored("None"))}, "", "ParentUnusable", "Failed"},
		{"failed", newRun(), []client.Object{newRun(named("former"), ended(fail, "InvalidRequest"))}, "", "ParentFailed", "Failed"},
		{"cancelled", newRun(), []client.Object{newRun(named("former"), ended(cancel, ""))}, "", "ParentFailed", "Failed"},
		{"failed, no provider", newRun(func(r *v1alpha1.ChatRun) { r.Spec.ProviderRef.Name = "absent" }), []client.Object{newRun(named("former"), ended(fail, "InvalidRequest"))}, "", "ParentFailed", "Failed"},
		{"unfinished", newRun(), []client.Object{newRun(named("former"), streaming(1))}, "", "WaitingForParent", "Pending"},
		{"not there yet", newRun(), nil, "", "ParentNotFound", "Pending"},
		{"was there", newRun(func(r *v1alpha1.ChatRun) { r.Status.ParentUID = "uid-of-former" }), nil, "", "ParentNotFound", "Failed"},
		{"another has its name", newRun(func(r *v1alpha1.ChatRun) { r.Status.ParentUID = "uid-0" }), []client.Object{former()}, "", "ParentNotFound", "Failed"},
		{"itself", newRun(after("hello")), nil, "", "ConversationCycle", "Failed"},
		{"a cycle", newRun(), []client.Object{newRun(named("former"), after("other")), newRun(named("other"), after("hello"))}, "", "ConversationCycle", "Failed"},
		{"before a cycle of others", newRun(), []client.Object{newRun(named("former"), after("other")), newRun(named("other"), after("former"))}, "", "WaitingForParent", "Pending"},
		{"too long", newRun(fromConfigMap), []client.Object{parent, object,
			listed(`[{"role":"user","content":"` + strings.Repeat("x", v1alpha1.MaxStoredBytes-100) + `"}]`)}, "", "ConversationTooLong", "Failed"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			untitled(tc.child)
			if tc.child.Spec.ContinueFrom == nil {
				after("former")(tc.child)
			}
			objects := []client.Object{tc.child, ready()}
			for _, o := range tc.objects {
				copied := o.DeepCopyObject().(client.Object)
				copied.SetResourceVersion("")
				objects = append(objects, copied)
			}
			b := newBench(t, objects...)
			b.must(t)
			run := b.run(t)
			if tc.asked != "" {
				if got := said(<-b.caller.asked); got != tc.asked {
					t.Errorf("asked %.200q", got)
				}
				if run.Status.ParentUID != "uid-of-former" || run.Status.MessagesDigest == "" || run.Labels[v1alpha1.LabelConversation] != "uid-of-former" {
					t.Errorf("parent %q, digest %q, labels %v", run.Status.ParentUID, run.Status.MessagesDigest, run.Labels)
				}
				return
			}
			if run.Status.Phase != tc.phase || reasonOf(run) != tc.reason || attemptOf(run) != 0 {
				t.Errorf("%s, %s: %s", run.Status.Phase, reasonOf(run), messageOf(run))
			}
			writes := b.writes
			if b.must(t); b.writes != writes {
				t.Error("a second look wrote again")
			}
		})
	}
}

// TestParentMayComeLater: a run waits a minute for one that is not there.
func TestParentMayComeLater(t *testing.T) {
	b := newBench(t, newRun(untitled, after("former")), ready())
	if after := b.must(t); after != 50*time.Second { // it is ten seconds old
		t.Errorf("looks again after %v", after)
	}
	b.clock.SetTime(t0.Add(50 * time.Second))
	b.must(t)
	if run := b.run(t); run.Status.Phase != v1alpha1.PhaseFailed || reasonOf(run) != v1alpha1.ReasonParentNotFound {
		t.Errorf("%s: %s", reasonOf(run), messageOf(run))
	}
}

// TestRetryOutlivesTheParent: the conversation is copied when the first attempt
// starts, and the parent is not needed any more.
func TestRetryOutlivesTheParent(t *testing.T) {
	b := newBench(t, newRun(untitled, after("former")), ready(), former())
	b.must(t)
	first := said(<-b.caller.asked)
	b.fails(t)
	b.change(t, &v1alpha1.ChatRun{}, "former", nil)
	b.must(t)
	if got := said(<-b.caller.asked); got != first {
		t.Errorf("asked %q, then %q", first, got)
	}
	b.fails(t)
	b.change(t, &corev1.ConfigMap{}, copyOfMessages, nil)
	b.must(t)
	if run := b.run(t); reasonOf(run) != v1alpha1.ReasonMessagesChanged {
		t.Errorf("%s: %s", reasonOf(run), messageOf(run))
	}
}

// TestLongConversation goes on twenty times.
func TestLongConversation(t *testing.T) {
	b := newBench(t, ready(), newRun(untitled, named("turn-0"), asks("q0")))
	var want []string
	for turn := range 20 {
		name := fmt.Sprintf("turn-%d", turn)
		if turn > 0 {
			child := newRun(untitled, named(name), asks(fmt.Sprintf("q%d", turn)), after(fmt.Sprintf("turn-%d", turn-1)))
			if err := b.api.Create(t.Context(), child); err != nil {
				t.Fatal(err)
			}
		}
		want = append(want, fmt.Sprintf("user:q%d", turn))
		b.name, b.caller.text = name, fmt.Sprintf("a%d", turn)
		b.must(t)
		if got := said(<-b.caller.asked); got != strings.Join(want, "|") {
			t.Fatalf("turn %d asked %q", turn, got)
		}
		b.caller.answer <- nil
		<-b.nudged
		b.must(t)
		run := b.run(t)
		if run.Status.Phase != v1alpha1.PhaseSucceeded || turn > 0 && run.Labels[v1alpha1.LabelConversation] != "uid-of-turn-0" {
			t.Fatalf("turn %d: %s %v", turn, run.Status.Phase, run.Labels)
		}
		want = append(want, fmt.Sprintf("assistant:a%d", turn))
	}
}

// TestLabelOfAPersonStands: a label that is there is neither overwritten nor
// taken away, and the former run's is handed on.
func TestLabelOfAPersonStands(t *testing.T) {
	for _, tc := range []struct {
		name                  string
		parent, child         []runOption
		parentHas, childsHave string
	}{
		{"none", nil, nil, "uid-of-former", "uid-of-former"},
		{"parent's", []runOption{labelled("mine")}, nil, "mine", "mine"},
		{"child's", nil, []runOption{labelled("mine")}, "uid-of-former", "mine"},
		{"both", []runOption{labelled("a")}, []runOption{labelled("b")}, "a", "b"},
	} {
		b := newBench(t, newRun(append(tc.child, untitled, after("former"))...), ready(), former(tc.parent...))
		b.must(t)
		<-b.caller.asked
		parent := &v1alpha1.ChatRun{}
		b.get(t, parent, "former")
		if got := [2]string{parent.Labels[v1alpha1.LabelConversation], b.run(t).Labels[v1alpha1.LabelConversation]}; got != [2]string{tc.parentHas, tc.childsHave} {
			t.Errorf("%s: %v", tc.name, got)
		}
	}
}

// TestTTLWaitsForChildren: a run past its TTL stays as long as one that goes on
// from it has not copied its answer.
func TestTTLWaitsForChildren(t *testing.T) {
	child := newRun(named("child"), after("hello"), func(r *v1alpha1.ChatRun) { r.Spec.DesiredState = v1alpha1.DesiredSuspended })
	b := newBench(t, newRun(untitled, ttl(1), ended(succeed, "")), child, ready())
	b.clock.SetTime(t0.Add(time.Minute))
	if after := b.must(t); after != 0 || !b.get(t, &v1alpha1.ChatRun{}, "hello") {
		t.Fatalf("it went, or is looked at after %v", after)
	}
	run := &v1alpha1.ChatRun{}
	b.get(t, run, "child")
	run.Status.MessagesDigest = "sha256:0"
	if err := b.api.Status().Update(t.Context(), run); err != nil {
		t.Fatal(err)
	}
	judged := b.run(t)
	b.must(t)
	if b.get(t, &v1alpha1.ChatRun{}, "hello") {
		t.Error("it is still there")
	}
	if len(b.deletes) != 1 || b.deletes[0].Preconditions == nil || valueOr(b.deletes[0].Preconditions.UID, "") != judged.UID ||
		valueOr(b.deletes[0].Preconditions.ResourceVersion, "") != judged.ResourceVersion {
		t.Errorf("deleted with %+v, where it was judged at version %s", b.deletes, judged.ResourceVersion)
	}
}

// TestOwnerOfACopy: the copy goes with the run that it was made for.
func TestOwnerOfACopy(t *testing.T) {
	b := newBench(t, newRun(untitled, after("former")), ready(), former())
	b.must(t)
	<-b.caller.asked
	m := &corev1.ConfigMap{}
	if !b.get(t, m, copyOfMessages) || !metav1.IsControlledBy(m, b.run(t)) || !valueOr(m.Immutable, false) {
		t.Errorf("the copy is %+v", m.ObjectMeta)
	}
}
