#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <pthread.h>
static void *f(void *p){char *m=mmap(0,4<<20,3,0x22,-1,0);memset(m,1,4<<20);return 0;}
int main(){char*m=mmap(0,16<<20,3,0x22,-1,0);memset(m,1,16<<20);pthread_t t;pthread_create(&t,0,f,0);pthread_join(t,0);return 0;}
