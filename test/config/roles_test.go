// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package config

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
)

// userRoles are the roles of config/rbac/users, and all that each allows:
// verbs by group and resource.
var userRoles = map[string]map[string][]string{
	"chatrun-viewer": {
		"chatrun.dev/chatruns":             {"get", "list", "watch"},
		"chatrun.dev/chatruns/status":      {"get"},
		"chatrun.dev/chatproviders":        {"get", "list", "watch"},
		"chatrun.dev/chatproviders/status": {"get"},
	},
	"chatrun-editor": {
		"chatrun.dev/chatruns":             {"get", "list", "watch", "create", "update", "patch", "delete", "deletecollection"},
		"chatrun.dev/chatruns/status":      {"get"},
		"chatrun.dev/chatproviders":        {"get", "list", "watch"},
		"chatrun.dev/chatproviders/status": {"get"},
	},
	"chatrun-stream-reader": {
		"stream.chatrun.dev/chatruns/log": {"get"},
	},
	"chatprovider-admin": {
		"chatrun.dev/chatproviders":        {"get", "list", "watch", "create", "update", "patch", "delete", "deletecollection"},
		"chatrun.dev/chatproviders/status": {"get"},
	},
}

var (
	allVerbs = []string{"get", "list", "watch", "create", "update", "patch", "delete", "deletecollection", "escalate"}
	// allResources are ours, and what a role for chats must not open.
	allResources = []string{
		"chatrun.dev/chatruns", "chatrun.dev/chatruns/status", "chatrun.dev/chatruns/log",
		"chatrun.dev/chatproviders", "chatrun.dev/chatproviders/status",
		"stream.chatrun.dev/chatruns", "stream.chatrun.dev/chatruns/log", "stream.chatrun.dev/chatruns/status",
		"/secrets", "/configmaps", "/pods/log", "/events", "apiregistration.k8s.io/apiservices",
	}
)

func (k kubectl) client(t *testing.T) kubernetes.Interface {
	t.Helper()
	cfg, err := clientcmd.BuildConfigFromFlags("", k.kubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	cfg.QPS = -1
	client, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return client
}

// TestUserRoles asks for everything: what a role is not made for it must refuse.
func TestUserRoles(t *testing.T) {
	k := start(t)
	answer := k.apply(t, "rbac/users")
	if got := strings.Count(answer, "clusterrole.rbac.authorization.k8s.io/"); got != len(userRoles) {
		t.Errorf("config/rbac/users has %d roles, want %d:\n%s", got, len(userRoles), answer)
	}
	client := k.client(t)
	namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "team"}}
	if _, err := client.CoreV1().Namespaces().Create(t.Context(), namespace, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	for role, allowed := range userRoles {
		t.Run(role, func(t *testing.T) {
			user := "only-" + role
			binding := &rbacv1.RoleBinding{
				ObjectMeta: metav1.ObjectMeta{Name: user},
				RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: role},
				Subjects:   []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: rbacv1.UserKind, Name: user}},
			}
			if _, err := client.RbacV1().RoleBindings("team").Create(t.Context(), binding, metav1.CreateOptions{}); err != nil {
				t.Fatal(err)
			}
			settle(t, client, user, allowed)
			for _, resource := range allResources {
				for _, verb := range allVerbs {
					if got, want := may(t, client, user, "team", verb, resource), slices.Contains(allowed[resource], verb); got != want {
						t.Errorf("may %s %s %s? %t, want %t", role, verb, resource, got, want)
					}
					if may(t, client, user, "default", verb, resource) {
						t.Errorf("%s may %s %s in a namespace that it is not bound in", role, verb, resource)
					}
				}
			}
		})
	}
	// The check of docs/access.md. `can-i get` finds no kind behind a group that
	// has a subresource alone, and asks for something else.
	for namespace, want := range map[string]bool{"team": true, "default": false} {
		answer, _, err := k.run(t, "", "auth", "can-i", "--list", "--namespace="+namespace, "--as=only-chatrun-stream-reader")
		if err != nil || strings.Contains(answer, "chatruns.stream.chatrun.dev/log") != want {
			t.Errorf("kubectl auth can-i --list in namespace %s: %v, want the stream to be in it: %t\n%s", namespace, err, want, answer)
		}
	}
}

// settle waits until the authorizer knows of a binding: its cache is a moment
// behind.
func settle(t *testing.T, client kubernetes.Interface, user string, allowed map[string][]string) {
	t.Helper()
	for resource, verbs := range allowed {
		err := wait.PollUntilContextTimeout(t.Context(), 10*time.Millisecond, 30*time.Second, true, func(context.Context) (bool, error) {
			return may(t, client, user, "team", verbs[0], resource), nil
		})
		if err != nil {
			t.Fatalf("%s may not %s %s: %v", user, verbs[0], resource, err)
		}
	}
}

// may asks the API server; a resource is group/resource or group/resource/subresource.
func may(t *testing.T, client kubernetes.Interface, user, namespace, verb, resource string) bool {
	t.Helper()
	parts := append(strings.Split(resource, "/"), "")
	review := &authorizationv1.SubjectAccessReview{Spec: authorizationv1.SubjectAccessReviewSpec{
		User: user, Groups: []string{"system:authenticated"},
		ResourceAttributes: &authorizationv1.ResourceAttributes{
			Namespace: namespace, Name: "x", Verb: verb, Group: parts[0], Resource: parts[1], Subresource: parts[2],
		},
	}}
	answer, err := client.AuthorizationV1().SubjectAccessReviews().Create(t.Context(), review, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return answer.Status.Allowed
}

// TestAggregation: which of our roles become part of the built-in ones, as the
// API server's own selectors have it. No controller runs here to fill them in.
func TestAggregation(t *testing.T) {
	k := start(t)
	k.apply(t, "default")
	client := k.client(t)
	list, err := client.RbacV1().ClusterRoles().List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for builtIn, want := range map[string][]string{
		"view":  {"chatrun-stream-reader", "chatrun-viewer"},
		"edit":  {"chatrun-editor", "chatrun-stream-reader", "chatrun-viewer"},
		"admin": {"chatrun-editor", "chatrun-stream-reader", "chatrun-viewer"},
	} {
		got := slices.DeleteFunc(aggregated(t, list.Items, builtIn), func(name string) bool { return !strings.HasPrefix(name, "chat") })
		slices.Sort(got)
		if got = slices.Compact(got); !slices.Equal(got, want) {
			t.Errorf("%s takes in %v, want %v", builtIn, got, want)
		}
	}
}

// aggregated names the roles that a role takes in, directly or through others.
func aggregated(t *testing.T, roles []rbacv1.ClusterRole, name string) []string {
	t.Helper()
	var names []string
	for _, role := range roles {
		if role.Name != name || role.AggregationRule == nil {
			continue
		}
		for i := range role.AggregationRule.ClusterRoleSelectors {
			selector, err := metav1.LabelSelectorAsSelector(&role.AggregationRule.ClusterRoleSelectors[i])
			if err != nil {
				t.Fatal(err)
			}
			for _, other := range roles {
				if selector.Matches(labels.Set(other.Labels)) {
					names = append(append(names, other.Name), aggregated(t, roles, other.Name)...)
				}
			}
		}
	}
	return names
}
