// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package frontdoor

import (
	"errors"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	. "github.com/onsi/gomega"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/discovery"

	"chatrun.dev/operator/internal/chattest"
)

var streamGroup = schema.GroupVersion{Group: "stream.chatrun.dev", Version: "v1alpha1"}

// TestOutage: what it costs that the door is open and nobody is behind it, and
// the two ways out.
func TestOutage(t *testing.T) {
	t.Parallel()
	d := open(t)
	p := d.place(t, "outage", chattest.Always(chattest.Answer("text")))
	p.run(t, "before")
	jane := d.user(t, "jane")
	d.grant(t, p.namespace, reader, "User", jane.name)
	stream := func(name string) []string {
		return []string{"get", "--raw", logPath(p.namespace, name, "follow=true&format=text")}
	}
	if got := d.must(t, jane.kubeconfig, stream("before")...); got != "text" {
		t.Fatalf("the stream brings %q", got)
	}
	d.healthy(t)

	down := time.Now()
	if err := d.process.Kill(); err != nil {
		t.Fatal(err)
	}
	d.untilNot(t)
	t.Logf("the API server found the outage after %v", time.Since(down).Round(time.Second))
	d.partial(t)
	t.Logf("and discovery was partial after %v", time.Since(down).Round(time.Second))
	if _, complaint, err := d.kubectl(t, jane.kubeconfig, stream("before")...); err == nil || !strings.Contains(complaint, "ServiceUnavailable") {
		t.Errorf("the stream: %v, %s", err, complaint)
	}
	d.restGoesOn(t, p)
	d.namespaceController(t)

	back := time.Now()
	d.start(t)
	d.untilAvailable(t)
	t.Logf("available again %v after the manager came back", time.Since(back).Round(time.Second))
	d.whole(t)
	t.Logf("discovery whole after %v", time.Since(back).Round(time.Second))
	for _, name := range []string{"before", "meanwhile"} {
		if got := d.must(t, jane.kubeconfig, stream(name)...); got != "text" {
			t.Errorf("the stream of %s brings %q", name, got)
		}
	}

	// The other way out, when the manager will not come back.
	if err := d.process.Kill(); err != nil {
		t.Fatal(err)
	}
	d.untilNot(t)
	d.partial(t)
	d.must(t, d.admin, "delete", "apiservice", apiService)
	d.whole(t)
}

// untilNot waits until the API server knows that nobody is behind the door.
func (d *door) untilNot(t *testing.T) {
	t.Helper()
	d.must(t, d.admin, "wait", "--for=condition=Available=False", "--timeout="+outage.String(), "apiservice/"+apiService)
}

// healthy is discovery as it should be.
func (d *door) healthy(t *testing.T) {
	t.Helper()
	// kubectl lists no subresources, so the group adds nothing there.
	if got := d.must(t, d.admin, "api-resources", "--api-group="+streamGroup.Group, "--no-headers"); got != "" {
		t.Errorf("kubectl api-resources lists %q", got)
	}
	if got := d.must(t, d.admin, "api-versions"); !strings.Contains(got, streamGroup.String()+"\n") {
		t.Errorf("kubectl api-versions does not list the group:\n%s", got)
	}
	list := d.must(t, d.admin, "get", "--raw", "/apis/"+streamGroup.String())
	for _, want := range []string{`"name":"chatruns/log"`, `"namespaced":true`, `"verbs":["get"]`} {
		if !strings.Contains(list, want) {
			t.Errorf("the group's resources have no %s: %s", want, list)
		}
	}
	// The same word names runs still, not the group that has streams alone.
	if got := d.must(t, d.admin, "get", "chatruns,chr,chat", "--all-namespaces", "--no-headers"); !strings.Contains(got, "before") {
		t.Errorf("kubectl get chatruns: %q", got)
	}
	if _, err := d.discovery(t); err != nil {
		t.Errorf("discovery: %v", err)
	}
}

// discovery asks as the namespace controller does.
func (d *door) discovery(t *testing.T) ([]*metav1.APIResourceList, error) {
	t.Helper()
	client, err := discovery.NewDiscoveryClientForConfig(d.plane.Config)
	if err != nil {
		t.Fatal(err)
	}
	return client.ServerPreferredNamespacedResources()
}

func (d *door) legacyDiscovery(t *testing.T) ([]*metav1.APIResourceList, error) {
	t.Helper()
	client, err := discovery.NewDiscoveryClientForConfig(d.plane.Config)
	if err != nil {
		t.Fatal(err)
	}
	client.UseLegacyDiscovery = true
	return client.ServerPreferredNamespacedResources()
}

// partial waits until discovery fails for our group, and wants it to fail for no
// other.
func (d *door) partial(t *testing.T) {
	t.Helper()
	NewWithT(t).Eventually(func() error {
		_, err := d.discovery(t)
		return err
	}).WithTimeout(outage).WithPolling(time.Second).Should(HaveOccurred())
	lists, err := d.discovery(t)
	failed, ok := errors.AsType[*discovery.ErrGroupDiscoveryFailed](err)
	if !ok || !slices.Equal(slices.Collect(maps.Keys(failed.Groups)), []schema.GroupVersion{streamGroup}) {
		t.Errorf("discovery fails with %v", err)
	}
	t.Logf("discovery: %v", err)
	found := map[string]bool{}
	for _, list := range lists {
		found[list.GroupVersion] = len(list.APIResources) > 0
	}
	for _, version := range []string{"v1", "apps/v1", "chatrun.dev/v1alpha1"} {
		if !found[version] {
			t.Errorf("discovery has no %s", version)
		}
	}
	// Clients from before 1.27, and those that say so, ask every group.
	_, err = d.legacyDiscovery(t)
	failed, ok = errors.AsType[*discovery.ErrGroupDiscoveryFailed](err)
	if !ok || len(failed.Groups) != 1 || !apierrors.IsServiceUnavailable(failed.Groups[streamGroup]) {
		t.Errorf("discovery of old fails with %v", err)
	}
	t.Logf("discovery of old: %v", err)
	// The kubectl of these days leaves the group out, and says nothing.
	answer := d.must(t, d.admin, "api-resources", "--no-headers")
	if !strings.Contains(answer, "ChatRun") || !strings.Contains(answer, "Deployment") {
		t.Errorf("kubectl api-resources:\n%s", answer)
	}
	if answer := d.must(t, d.admin, "api-versions"); strings.Contains(answer, streamGroup.Group) || !strings.Contains(answer, "chatrun.dev/v1alpha1") {
		t.Errorf("kubectl api-versions:\n%s", answer)
	}
}

// whole waits until discovery fails for no group.
func (d *door) whole(t *testing.T) {
	t.Helper()
	NewWithT(t).Eventually(func() error {
		_, err := d.discovery(t)
		return err
	}).WithTimeout(outage).WithPolling(time.Second).Should(Succeed())
}

// restGoesOn: nothing that is stored depends on the door.
func (d *door) restGoesOn(t *testing.T, p *place) {
	t.Helper()
	for _, args := range [][]string{
		{"get", "chatruns,chr,chatproviders", "--namespace=" + p.namespace},
		{"get", "chat", "--namespace=" + p.namespace},
		{"describe", "chatrun", "before", "--namespace=" + p.namespace},
		{"explain", "chatrun.spec"},
		{"get", "deployments,pods", "--all-namespaces"},
		{"annotate", "chatrun", "before", "--namespace=" + p.namespace, "example.com/note=kept"},
		{"create", "configmap", "stored", "--namespace=" + p.namespace},
		{"delete", "configmap", "stored", "--namespace=" + p.namespace},
	} {
		answer, complaint, err := d.kubectl(t, d.admin, args...)
		if err != nil {
			t.Errorf("kubectl %s: %v\n%s%s", strings.Join(args, " "), err, answer, complaint)
		} else if complaint != "" {
			t.Logf("kubectl %s works, and says: %s", strings.Join(args, " "), complaint)
		}
	}
	// Applied by file, as people do, not by a client that needs no discovery.
	p.applyRun(t, "meanwhile")
}

// namespaceController shows on what the namespace controller stops. No
// controller runs here; what it does with this error is in its source
// (deletion/namespaced_resources_deleter.go): all that discovery does find is
// deleted, NamespaceDeletionDiscoveryFailure is set, and the namespace stays.
func (d *door) namespaceController(t *testing.T) {
	t.Helper()
	lists, err := d.discovery(t)
	if !discovery.IsGroupDiscoveryFailedError(err) {
		t.Errorf("discovery fails with %v", err)
	}
	deletable := discovery.FilteredBy(discovery.SupportsAllVerbs{Verbs: []string{"delete"}}, lists)
	resources, err := discovery.GroupVersionResources(deletable)
	if err != nil {
		t.Errorf("what is to be deleted: %v", err)
	}
	for _, resource := range []schema.GroupVersionResource{
		{Version: "v1", Resource: "secrets"}, {Group: "chatrun.dev", Version: "v1alpha1", Resource: "chatruns"},
	} {
		if _, ok := resources[resource]; !ok {
			t.Errorf("%v would not be deleted", resource)
		}
	}
}

// applyRun applies a run from a file.
func (p *place) applyRun(t *testing.T, name string) {
	t.Helper()
	g := NewWithT(t)
	file := filepath.Join(t.TempDir(), "run.yaml")
	g.Expect(os.WriteFile(file, []byte(`apiVersion: chatrun.dev/v1alpha1
kind: ChatRun
metadata:
  name: `+name+`
  namespace: `+p.namespace+`
spec:
  providerRef:
    name: fake
  prompt: question
  title:
    policy: None
`), 0o600)).To(Succeed())
	p.must(t, p.admin, "apply", "--filename="+file)
}
